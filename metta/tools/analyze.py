"""`metta analyze`: compares runs by what eval.db and their folders hold: a table, and a report, pictures or numbers.

It only reads, and never imports torch, so a run that is being trained is not disturbed.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from metta.errors import UserError, enumeration, needed, one_line
from metta.eval.comparison import EnvComparison, Group, compare
from metta.eval.eval_db import EvalDB
from metta.eval.event_files import pace_of, read_curves
from metta.eval.report.page import Report, interval_over, page
from metta.eval.report.plots import MOST_PAIRS, Lines, over_steps, sections
from metta.eval.report.run_files import run_files
from metta.eval.report.settings import Settings, read_settings
from metta.eval.statistics import Estimate
from metta.run_folder import RunFolder, expanded
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import AnalyzeConfig
from metta.tools.cli.table import interval_text, print_table
from metta.tools.cli.targets import kept_scores, look_at_runs, matching_runs, where_keys

MOST_COLUMNS = 6  # groups whose settings are printed side by side; the report has those of all


def main(argv: Sequence[str]) -> int:
    config, _ = parse(AnalyzeConfig, argv, "metta analyze")
    train_dir = expanded(config.train_dir)
    db = kept_scores(config)
    found, unread = look_at_runs(config.train_dir)
    groups = group_runs(config, sorted({*found, *db.runs()} - {*unread}))
    check_out(config)
    report = make_report(db, train_dir, groups, where_keys(config))
    names = [group.name for group in groups]
    print_settings(names, report.settings)
    for env in report.comparison.envs:
        print_scores(groups, env)
        print_better(names, env)
        print()
    for note in report.notes:
        print(f"note: {one_line(note)}")
    print(write(report, config))
    return 0


def group_runs(config: AnalyzeConfig, known: Sequence[str]) -> list[Group]:
    """Make a group of each name and pattern in runs=. UserError if one matches nothing, or a run is matched twice."""
    groups = [Group(name, matching_runs(name, config.train_dir, known)) for name in config.runs.split(",")]
    found: dict[str, str] = {}
    for group in groups:
        for run in group.runs:
            if run in found:
                raise UserError(f"runs={config.runs}: {run} is in it twice, by {found[run]} and by {group.name}")
            found[run] = group.name
    return groups


def out_path(config: AnalyzeConfig) -> Path:
    """Choose where to write: the report, or the folder of pictures or tables."""
    if config.out is not None:
        return Path(config.out)
    return expanded(config.train_dir) / ("report.html" if config.format == "html" else f"report_{config.format}")


def check_out(config: AnalyzeConfig) -> None:
    """Raise UserError, before any work is done, if out= cannot be written or matplotlib is missing."""
    path = out_path(config)
    if not path.parent.is_dir():
        raise UserError(f"out={path}: no folder {path.parent}")
    if config.format == "html":
        if path.is_dir():
            raise UserError(f"out={path}: is a folder; format=html writes one file")
        if path.suffix != ".html":
            raise UserError(f"out={path}: a file of format=html is named *.html")
        return
    if path.exists() and not path.is_dir():
        raise UserError(f"out={path}: is a file; format={config.format} writes a folder")
    if config.format == "png":
        needed("matplotlib", "format=png", "png", "; format=html and format=csv do not")


def make_report(db: EvalDB, train_dir: Path, groups: Sequence[Group], where: Sequence[str]) -> Report:
    """Compare the groups and read what their folders hold. ComparisonError if there is nothing to compare."""
    comparison = compare(db, groups, where)
    training = {run: read_curves(RunFolder(train_dir, run)) for run in comparison.scores}
    settings = read_settings(train_dir, groups)
    pace = {run: pace_of(train_dir, run) for run in comparison.scores}
    notes = [*comparison.notes, *settings.notes]
    if without := [run for run, curves in training.items() if not curves]:
        notes.append(f"{enumeration(without)}: no training curves (no TensorBoard file in the run folder).")
    files = [
        run_files(db, train_dir, run, index, comparison.scores[run])
        for index, group in enumerate(groups)
        for run in group.runs
    ]
    plots = sections(comparison, training, pace)
    return Report(train_dir, comparison, plots, files, settings, pace, notes)


def print_settings(names: Sequence[str], settings: Settings) -> None:
    """Print the settings that differ, of a few groups."""
    if settings.differing and len(names) <= MOST_COLUMNS:
        print_table(("settings that differ", *names), [(key, *cells) for key, cells in settings.differing.items()])
        print()


def print_scores(groups: Sequence[Group], env: EnvComparison) -> None:
    """Print the groups' last evaluations in one environment."""
    rows = [
        (
            group.name,
            ", ".join(map(str, sorted(set(final.epochs)))),
            estimate_text(final.mean),
            estimate_text(final.iqm),
            "" if best is None else str(best),
            interval_over(len(group.runs)),
        )
        for group, final, best in zip(groups, env.finals, env.best, strict=True)
    ]
    print_table((env.env, "epoch", "mean [95%]", "IQM [95%]", "best", "over"), rows)


def print_better(names: Sequence[str], env: EnvComparison) -> None:
    """Print P(A > B) of every pair; with many groups, only of the pairs with the first group."""
    rows = [
        (f"{names[one.a]} > {names[one.b]}", estimate_text(one.probability), str(one.episodes))
        for one in env.better
        if len(env.better) <= MOST_PAIRS or one.a == 0
    ]
    if rows:
        print()
        print_table(("A > B", "P(A > B) [95%]", "episodes"), rows)


def estimate_text(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} {interval_text(estimate)}"


def write(report: Report, config: AnalyzeConfig) -> str:
    """Write what format= asks for; return a line that says where it is."""
    path = out_path(config)
    if config.format == "html":
        size = path.write_bytes(page(report, path).encode())
        return f"wrote {path} ({size / 1000:,.0f} kB): open it in a browser"
    path.mkdir(parents=True, exist_ok=True)
    names = [group.name for group in report.comparison.groups]
    plots = [(section.title, plot) for section in report.sections for plot in section.plots]
    if config.format == "csv":
        from metta.eval.report.numbers import plot_rows, score_rows, write_csv

        write_csv(path / "scores.csv", score_rows(report.comparison, report.pace))
        for _, plot in plots:
            write_csv(path / f"{plot.id}.csv", plot_rows(plot, names))
        return f"wrote scores.csv and {len(plots)} other tables to {path}"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # or it says that it looks for fonts, the first time
    from metta.eval.report.png import save_png

    plots += [(title, made) for title, plot in plots if isinstance(plot, Lines) and (made := over_steps(plot))]
    for title, plot in plots:
        save_png(plot, names, title, path / f"{plot.id}.png")
    return f"wrote {len(plots)} pictures to {path}"
