"""`metta scores`: shows what every evaluation scored, exports the episodes, or copies them to another database."""

import csv
import fnmatch
import io
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO

from metta.errors import UserError, enumeration, needed, one_line
from metta.eval.databases import KINDS
from metta.eval.eval_db import EvalDB
from metta.files.durable import rename_over, written_beside
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import ScoresConfig
from metta.tools.cli.table import SCORE_HEADINGS, print_table, score_cells
from metta.tools.cli.targets import kept_scores


def main(argv: Sequence[str]) -> int:
    config, _ = parse(ScoresConfig, argv, "metta scores")
    write = None if config.export is None else writer(Path(config.export))
    db = kept_scores(config)
    runs = chosen_runs(config, db)
    if config.copy_to is not None:
        copy = EvalDB(config.copy_to)
        if copy.path is not None and not copy.path.parent.is_dir():
            raise UserError(f"copy_to={copy.name}: no folder {copy.path.parent}")
        print(one_line(f"copied {db.copy_to(copy, runs):,} rows from {db.name} to {copy.name}"))
    if write is not None:
        path = Path(str(config.export))
        with written_beside(path, lambda file: write(file, db, runs)) as temporary:
            rename_over(temporary, path)
        print(one_line(f"wrote {path}: the rows of {len(runs)} runs in {db.name}"))
    if config.copy_to is None and write is None:
        print_scores(db, runs)
    return 0


def writer(path: Path) -> Callable[[IO[bytes], EvalDB, Sequence[str]], None]:
    """Choose by the name's ending how to write the rows. UserError where nothing here can."""
    if not path.parent.is_dir() or path.is_dir():
        raise UserError(f"export={path}: {f'no folder {path.parent}' if not path.is_dir() else 'is a folder'}")
    if path.suffix == ".csv":
        return write_csv
    if path.suffix != ".parquet":
        raise UserError(f"export={path}: must end in .csv or .parquet")
    needed("pyarrow", f"export={path}", "parquet", "; a name that ends in .csv does not")
    return write_parquet


def chosen_runs(config: ScoresConfig, db: EvalDB) -> list[str]:
    """Find the runs that runs= names or matches. UserError if one of its parts matches nothing."""
    known, patterns = db.runs(), ["*"] if config.runs is None else config.runs.split(",")
    for pattern in patterns if config.runs is not None else []:
        if not fnmatch.filter(known, pattern):
            have = f"have {enumeration(known)}" if known else "there is none yet"
            raise UserError(f"no scores of run {pattern} in {db.name}: {have}")
    return [run for run in known if any(fnmatch.fnmatchcase(run, pattern) for pattern in patterns)]


def write_csv(file: IO[bytes], db: EvalDB, runs: Sequence[str]) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(KINDS)
    rows.writerows(db.table(runs))
    text.detach()


def write_parquet(file: IO[bytes], db: EvalDB, runs: Sequence[str]) -> None:
    """Write a row group for each run."""
    import pyarrow
    from pyarrow import parquet

    types = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in KINDS.items()])
    with parquet.ParquetWriter(file, schema) as table:
        for _, rows in groupby(db.table(runs), key=lambda row: row[0]):
            columns = dict(zip(KINDS, zip(*rows, strict=True), strict=True))
            table.write_table(pyarrow.table(columns, schema))


def print_scores(db: EvalDB, runs: Sequence[str]) -> None:
    rows = [
        (run, env, str(epoch), *score_cells(score))
        for run in runs
        for epoch, scores in db.get_scores(run).items()
        for env, score in scores.items()
    ]
    if rows:
        print_table(("run", "env", "epoch", *SCORE_HEADINGS), rows, left=2)
    else:
        print(one_line(f"no scores in {db.name} yet: `metta sim run=NAME` evaluates a run"))
