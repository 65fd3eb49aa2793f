"""What docs/scale.md tells a user to type works as printed, with this machine's servers in the place of others."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from metta.eval.eval_db import EvalDB
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.commands import ROOT, run_in

PAGE = (ROOT / "docs/scale.md").read_text()
TINY = "num_envs=2 horizon=16 minibatch_size=32 hidden_size=4 num_workers=0 checkpoint_interval=64 device=cpu"


def commands(heading: str) -> list[str]:
    """The lines after a "$ " prompt of a section."""
    section = PAGE[PAGE.index(f"## {heading}\n") :].split("\n## ")[0]
    return re.findall(r"^\$ metta (.*)$", section, re.MULTILINE)


def metta(folder: Path, command: str) -> str:
    return run_in(folder, [sys.executable, "-m", "metta.tools.main", *shlex.split(command)])[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small run a."""
    metta(tmp_path, f"train run=a env=CartPole-v1 total_timesteps=2048 {TINY}")
    return tmp_path


@pytest.mark.slow
def test_scores_in_postgresql(folder, postgres_url):
    """A command of the page that takes other keys by now."""
    for command in commands("Scores in PostgreSQL"):
        metta(folder, command.replace("postgresql://metta@localhost/metta", postgres_url))
        if "copy_to" not in command and "export" not in command:
            assert not (folder / "train_dir/eval.db").exists()
        elif not (folder / "train_dir/eval.db").exists():
            metta(folder, f"scores eval_db={postgres_url} copy_to=train_dir/eval.db")
    assert (folder / "scores.parquet").exists() and len((folder / "scores.csv").read_text().splitlines()) == 21
    assert list(EvalDB(folder / "copy.db").table()) == list(EvalDB(postgres_url).table())


@pytest.mark.slow
def test_evaluation_on_a_cluster(folder):
    """As above. There is no SLURM where tests run, so the tasks are processes here."""
    (command,) = commands("Evaluation on a cluster")
    rows = [line.split()[:3] for line in metta(folder, command).splitlines()[1:]]
    assert rows == [["a", "0", "CartPole-v1"], ["a", "64", "CartPole-v1"]]
    assert sorted(path.name for path in (folder / "train_dir").iterdir()) == ["a", "eval.db"]


@pytest.mark.slow
def test_a_copy_in_object_storage(tmp_path):
    """As above; and the first command, typed again elsewhere, does not begin again."""
    mirror = f"file://{tmp_path}/bucket"
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        for command in commands("A copy of a run in object storage"):
            settings = f" {TINY}" if command.startswith("train") else ""
            metta(tmp_path / place, command.replace("s3://bucket/runs", mirror) + settings)
    assert TinyCheckpointManager("a", tmp_path / "two/train_dir").list_epochs() == [128]
    assert TinyCheckpointManager("a", tmp_path / "two/elsewhere").list_epochs() == [0, 64, 128]
