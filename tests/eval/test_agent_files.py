"""A score belongs to the agent that earned it, whatever lies under its name now."""

import shutil
from pathlib import Path

from metta.eval.agent_files import AgentFiles
from metta.eval.eval_db import EpisodeRow, EvalDB
from metta.files.pt_file import fingerprint
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.commands import metta_in
from tests.helpers.small_checkpoints import save

TINY = ["env=CartPole-v1", "num_envs=2", "horizon=16", "minibatch_size=16", "hidden_size=4", "num_workers=0"]


def record(tmp_path: Path, epoch: int, reward: float) -> EvalDB:
    manager = TinyCheckpointManager("a", tmp_path)
    db = EvalDB(tmp_path / "eval.db")
    db.record("a", epoch, "arena", [EpisodeRow(0, reward, 10)], fingerprint(manager.file("agent", epoch)))
    return db


def test_scores_of_a_replaced_file_are_nobodys(tmp_path):
    """Another agent under the same name inherited the score of the one that it replaced, was `best`, was exported."""
    manager = TinyCheckpointManager("a", tmp_path)
    save(manager, 1, 2, 3)
    for epoch, reward in ((1, 5.0), (2, 9.0), (3, 7.0)):
        db = record(tmp_path, epoch, reward)
    assert db.best_epoch("a") == 2 and db.get_scores("a", 2)["arena"].mean == 9.0
    shutil.copy(manager.file("agent", 1), manager.file("agent", 2))
    assert db.get_scores("a", 2) == {} and db.best_epoch("a") == 3 and sorted(db.get_scores("a")) == [1, 3]
    assert [row[1] for row in db.table()] == [1, 3] and db.copy_to(EvalDB(tmp_path / "copy.db")) == 2
    manager.file("agent", 3).write_bytes(b"damaged")
    assert db.best_epoch("a") == 1
    latest = db.latest_score("a")
    assert latest is not None and latest[0] == 1
    record(tmp_path, 2, 4.0)
    assert db.get_scores("a", 2)["arena"].mean == 4.0


def test_scores_without_their_file_are_history(tmp_path):
    """`epoch=best` named a checkpoint that retention had deleted; a copied eval.db alone answered nothing."""
    manager = TinyCheckpointManager("a", tmp_path)
    save(manager, 1, 2)
    for epoch, reward in ((1, 5.0), (2, 9.0)):
        db = record(tmp_path, epoch, reward)
    manager.file("agent", 2).unlink()
    assert db.best_epoch("a") == 1 and sorted(db.get_scores("a")) == [1, 2] == [row[1] for row in db.table()]
    shutil.rmtree(tmp_path / "a")
    assert db.best_epoch("a") == 2  # all that is left of the run


def test_a_name_that_is_no_runs_has_no_files(tmp_path):
    """A row under another name than a run's, by the API, was a traceback."""
    files = AgentFiles(tmp_path, "../a")
    assert files.may_be(1, "crc") and files.has(1, "crc")


def test_a_new_run_has_no_scores_of_an_earlier_one(tmp_path):
    """A deleted run's scores counted for the new one of its name: in `runs`, as `best`, and for retention."""
    train = ["train", "run=a", *TINY, "checkpoint_interval=1"]
    metta_in(tmp_path, *train, "total_timesteps=128")
    metta_in(tmp_path, "sim", "run=a", "epoch=all", "episodes=2")
    shutil.rmtree(tmp_path / "train_dir" / "a")
    _, said = metta_in(tmp_path, *train, "total_timesteps=64", "seed=2", "keep_last=1")
    assert "10 scores of an earlier run=a, which has no checkpoints, are now those of earlier-1.a" in said
    db = EvalDB(tmp_path / "train_dir" / "eval.db")
    assert db.get_scores("a") == {} and len(db.get_scores("earlier-1.a")) == 5
    assert TinyCheckpointManager("a", tmp_path / "train_dir").list_epochs() == [2]
