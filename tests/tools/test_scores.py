"""Scores by URL in every tool, and `metta scores`: shown, exported, copied."""

import csv
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from metta.eval.databases import COLUMNS
from metta.eval.eval_db import EpisodeRow, EvalDB
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.tools.main import main
from tests.helpers import report_data
from tests.helpers.commands import metta_in

TINY = ["env=CartPole-v1", "num_envs=2", "horizon=16", "minibatch_size=16", "hidden_size=4", "num_workers=0"]


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvalDB:
    """The scores of the runs a, b and c-1, in the working directory's train_dir."""
    monkeypatch.chdir(tmp_path)
    db = EvalDB("train_dir/eval.db")
    for run in ("a", "b", "c-1"):
        for epoch in (0, 7):
            rewards = np.random.default_rng(epoch).normal(size=5)
            rows = [EpisodeRow(seed, reward, 9, {"hearts": 1.0}) for seed, reward in enumerate(rewards)]
            db.record(run, epoch, 'arena[map="x, y"]', rows, "0badcafe")
    return db


def metta(capsys: pytest.CaptureFixture[str], *argv: str, status: int = 0) -> str:
    """What it printed: on stdout, or its one line on stderr where it refuses."""
    assert main(argv) == status
    said = capsys.readouterr()
    assert not status or (said.out == "" and said.err.count("\n") == 1)
    return said.err if status else said.out


def test_scores_are_shown(scored, capsys):
    """A table without a run, or with another number than the database has."""
    lines = metta(capsys, "scores", "runs=a,c*").splitlines()
    assert re.split("  +", lines[0]) == ["run", "env", "epoch", "mean reward", "95% interval", "IQM", "episodes"]
    assert [line.split()[0] for line in lines[1:]] == ["a", "a", "c-1", "c-1"]
    score = scored.get_scores("a", 7)['arena[map="x, y"]']
    assert f"{score.mean:.2f}" in lines[2].split() and "7" in lines[2].split()
    assert metta(capsys, "scores", "train_dir=none").startswith("no scores in none/eval.db yet: `metta sim run=NAME`")


def test_export(scored, capsys):
    """A row lost, a number rounded or a name torn at its comma on the way out."""
    for name in ("scores.csv", "scores.parquet"):
        assert f"wrote {name}: the rows of 3 runs" in metta(capsys, "scores", f"export={name}")
    with open("scores.csv", newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    assert tuple(names) == COLUMNS and rows == [[str(value) for value in row] for row in scored.table()]
    table = parquet.read_table("scores.parquet")
    assert table.column_names == list(COLUMNS)
    assert list(zip(*table.to_pydict().values(), strict=True)) == list(scored.table())
    metta(capsys, "scores", "export=b.csv", "runs=b")
    assert len(Path("b.csv").read_text().splitlines()) == 11
    metta(capsys, "scores", "export=none.parquet", "train_dir=none")
    assert parquet.read_table("none.parquet").num_rows == 0
    assert sorted(path.name for path in Path().iterdir()) == [
        "b.csv",
        "none.parquet",
        "scores.csv",
        "scores.parquet",
        "train_dir",
    ]


def test_copying_between_the_two(scored, postgres_url, capsys):
    """Rows lost or double on the way to a server and back; a password in what is printed."""
    said = metta(capsys, "scores", f"copy_to={postgres_url}")
    assert said.startswith("copied 30 rows from train_dir/eval.db to postgresql+psycopg://metta:***@127.0.0.1:")
    assert "copied 30 rows" in metta(capsys, "scores", f"copy_to={postgres_url}")
    assert "copied 20 rows" in metta(capsys, "scores", f"eval_db={postgres_url}", "copy_to=back.db", "runs=a,b")
    assert list(EvalDB(postgres_url).table()) == list(scored.table())
    assert list(EvalDB("back.db").table()) == list(scored.table(["a", "b"]))


@pytest.mark.parametrize("argv, said", [
    (["export=scores.xlsx"], "export=scores.xlsx: must end in .csv or .parquet"),
    (["export=none/scores.csv"], "export=none/scores.csv: no folder none"),
    (["export=train_dir"], "export=train_dir: is a folder"),
    (["copy_to=none/copy.db"], "copy_to=none/copy.db: no folder none"),
    (["runs=a,q*"], "no scores of run q* in train_dir/eval.db: have a, b, c-1"),
    (["copy_to=mysql://me:secret@host/db"], "mysql://me:***@host/db: scores are in a file, or in postgresql://"),
    (["eval_db=postgresql://me:secret@127.0.0.1:1/db"], "postgresql://me:***@127.0.0.1:1/db: connection failed: "),
    (["eval_db=postgresql://a:secret@h/d", "eval_db=postgresql://b:secret@h/d"], "given twice: postgresql://a:***@h/d"),
    (["export=scores.csv", "eval_db=no.db"], "eval_db=no.db: no such file"),
    (["eval_db=train_dir"], "train_dir: Is a directory"),
])  # fmt: skip
def test_mistakes_get_one_line(scored, capsys, argv, said):
    """A traceback, or a password in a terminal's history of errors."""
    line = metta(capsys, "scores", *argv, status=2)
    assert line.startswith("metta scores: ") and said in line and "secret" not in line
    assert sorted(path.name for path in Path().iterdir()) == ["train_dir"]


@pytest.mark.parametrize("module, argv, extra", [
    ("pyarrow", ["scores", "export=scores.parquet"], "metta[parquet]"),
    ("psycopg", ["runs", "eval_db=postgresql://me@host/db"], "metta[postgres]"),
    ("psycopg", ["train", "run=a", "env=arena", "eval_db=postgresql://me@host/db"], "metta[postgres]"),
])  # fmt: skip
def test_a_missing_extra_is_named(scored, capsys, monkeypatch, module, argv, extra):
    """A traceback of an import, where one line says what to install."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    monkeypatch.setitem(sys.modules, module, None)
    assert f"needs {module} (pip install '{extra}')" in metta(capsys, *argv, status=2)


def test_every_tool_takes_a_url(tmp_path, postgres_url, capsys, monkeypatch):
    """A tool that looks for eval.db in train_dir, whatever eval_db= says; a password kept in a checkpoint."""
    url = f"eval_db={postgres_url}"
    train = ["train", "run=a", *TINY, "checkpoint_interval=1", "keep_last=1", url]
    metta_in(tmp_path, *train, "total_timesteps=64")
    out, _ = metta_in(tmp_path, "sim", "run=a", "episodes=3", url)
    monkeypatch.chdir(tmp_path)
    (score,) = EvalDB(postgres_url).get_scores("a", 2).values()
    assert f"{score.mean:.2f}" in out and score.episodes == 3
    metta_in(tmp_path, "train", "run=a", "total_timesteps=128", url)  # keep_last=1 spares the best
    manager = TinyCheckpointManager("a")
    assert manager.list_epochs() == [2, 4] and b"metta:pass" not in manager.file("trainer", 4).read_bytes()
    assert f"{score.mean:.2f}" in metta(capsys, "runs", url)
    assert metta(capsys, "runs").splitlines()[1].split()[5:7] == ["-", "-"]
    assert "  2  " in metta(capsys, "analyze", "runs=a", url)
    out, _ = metta_in(tmp_path, "sim", "run=a", "epoch=best", "episodes=1", url)
    assert out.splitlines()[1].split()[1] == "2"
    assert not (tmp_path / "train_dir" / "eval.db").exists()


def test_nothing_of_it_is_imported_without_a_url(tmp_path):
    """Seconds of imports that nobody needs who has no server."""
    report_data.make_run(tmp_path / "train_dir", "a")
    code = (
        "import sys, metta; from metta.tools.main import main; main(['runs']); main(['scores', 'export=x.csv']);"
        "print([name for name in ('psycopg', 'pyarrow', 'obstore', 'submitit', 'ray', 'torch') if name in sys.modules])"
    )
    out = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True)
    assert out.splitlines()[-1] == "[]"
