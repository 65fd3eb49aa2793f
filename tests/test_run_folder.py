"""Where the files of a run lie."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from metta.errors import UserError
from metta.eval.eval_db import EvalDB
from metta.eval.policy_evaluator import PolicyEvaluator
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.run_folder import RunFolder, TrainDir, absolute
from tests.helpers.commands import metta_in


def test_every_path_of_a_run(tmp_path: Path) -> None:
    """Prevents runs written by one version from being invisible to the next: these names are on users' disks."""
    run = RunFolder(tmp_path, "a-1")
    assert (run.name, run.path) == ("a-1", tmp_path / "a-1")
    assert run.checkpoints == tmp_path / "a-1/checkpoints"
    assert run.replays == tmp_path / "a-1/replays"
    assert run.lock == tmp_path / "a-1/trainer.lock"
    assert TrainDir(str(tmp_path)).eval_db == tmp_path / "eval.db"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\n", "a b", "ä", "~", "a" * 201])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    """Prevents run=../x from reading or writing outside of train_dir, and a name no file can have from a traceback."""
    with pytest.raises(UserError, match="is not a run name"):
        RunFolder(tmp_path, name)


@pytest.mark.parametrize("call", [TinyCheckpointManager, EvalDB, PolicyEvaluator, partial(TinyCheckpointManager, "a")])
def test_what_is_no_path_or_name_gets_one_line(call: Any) -> None:
    """A TypeError from the depths of os.path over a None that somebody's own code handed on."""
    with pytest.raises(UserError, match=r"^(None: not a path|run=None is not a run name: .*)$"):
        call(None)


@pytest.mark.parametrize("name", ["eval.db", "Eval.DB", "eval.db-wal", "eval.db-shm", "eval.db-journal", "report.html"])
def test_a_file_of_train_dir_is_no_run(tmp_path: Path, name: str) -> None:
    """Prevents a run's folder from lying where the scores or the report are to be: every tool failed from then on."""
    with pytest.raises(UserError, match="is not a run name: train_dir has a file of that name"):
        RunFolder(tmp_path, name)
    (tmp_path / name).mkdir()
    assert TrainDir(tmp_path).runs() == []
    assert RunFolder(tmp_path, f"{name}.2").name == f"{name}.2"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents train_dir='~/runs', which many shells leave as it is, from making a folder that is called "~"."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert absolute("~/runs") == str(tmp_path / "home/runs")
    assert RunFolder("~/runs", "a").path == tmp_path / "home/runs/a"
    assert TrainDir("~/runs").eval_db == EvalDB("~/runs/eval.db").path == tmp_path / "home/runs/eval.db"
    tiny = ("env=CartPole-v1", "total_timesteps=16", "num_envs=2", "horizon=8", "minibatch_size=16", "display=none")
    for tool, *keys in (
        ("train", "run=a", *tiny),
        ("sim", "run=a", "episodes=2"),
        ("replay", "run=a"),
        ("play", "run=a"),
        ("runs",),
        ("analyze", "runs=a"),
        ("scores", "copy_to=~/runs/copy.db"),
    ):
        metta_in(tmp_path, tool, *keys, "train_dir=~/runs")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert {path.name for path in (tmp_path / "home/runs").iterdir()} == {"a", "copy.db", "eval.db", "report.html"}


def test_runs_are_the_folders_that_can_be_one(tmp_path: Path) -> None:
    """Prevents a stray file, or a folder with another kind of name, from breaking what lists the runs."""
    assert TrainDir(tmp_path / "none").runs() == []
    for name in ("b", "a.1", "not a run", "_c"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert [run.name for run in TrainDir(tmp_path).runs()] == ["_c", "a.1", "b"]
