"""What a report says of one run's folder: its checkpoints, their scores, and what there is to watch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metta.eval.comparison import envs_of
from metta.eval.eval_db import EvalDB, Scores
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.run_folder import RunFolder
from metta.sim.recording import recorded_in


@dataclass(frozen=True)
class Checkpoint:
    """An epoch that was saved or evaluated; `file` is the agent file, in the run folder, if it is still there."""

    epoch: int
    file: str | None
    scores: Scores
    replays: list[str]  # names of files in the run's replays/


@dataclass(frozen=True)
class RunFiles:
    """`best`: environment -> epoch. `replays`: files in the run's replays/ that belong to no checkpoint listed."""

    name: str
    group: int
    envs: list[str]
    best: dict[str, int]
    epochs: list[Checkpoint]
    replays: list[str]


def run_files(db: EvalDB, train_dir: Path, run: str, group: int, history: dict[int, Scores]) -> RunFiles:
    manager = TinyCheckpointManager(run, train_dir)
    saved = set(manager.list_epochs())
    epochs = sorted(saved | set(history))
    replays = replay_files(RunFolder(train_dir, run).replays)
    checkpoints = [
        Checkpoint(
            epoch,
            f"checkpoints/{manager.file('agent', epoch).name}" if epoch in saved else None,
            history.get(epoch, {}),
            [name for name in replays if epoch_of(name) == epoch],
        )
        for epoch in epochs
    ]
    envs = sorted(envs_of(history))
    best = {env: epoch for env in envs if (epoch := db.best_epoch(run, env)) is not None}
    others = [name for name in replays if epoch_of(name) not in epochs]
    return RunFiles(run, group, envs, best, checkpoints, others)


def replay_files(folder: Path) -> Sequence[str]:
    """List the names of the files in `replays/` that are written completely."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".tmp")


def epoch_of(name: str) -> int | None:
    """Read the epoch from the name of a file in replays/; None if it is no recording and no replay."""
    found = recorded_in(name)
    return None if found is None else found[0]
