"""What a report says of one run's folder: its checkpoints, their scores, and what there is to watch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metta.errors import enumeration
from metta.eval.comparison import Group, envs_of
from metta.eval.eval_db import EvalDB, Scores
from metta.rl.saved_config import newest_config
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import CHANGEABLE
from metta.run_folder import RunFolder
from metta.sim.recording import recorded_in

OF_ITS_OWN = CHANGEABLE | {"run", "seed", "train_dir"}  # keys in which the seeds of one setting may differ


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
    return sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def epoch_of(name: str) -> int | None:
    """Read the epoch from the name of a file in replays/; None if it is no recording and no replay."""
    found = recorded_in(name)
    return None if found is None else found[0]


def setting_notes(train_dir: Path, groups: Sequence[Group]) -> list[str]:
    """Note where the runs of a group are not seeds of one setting."""
    notes = []
    for group in groups:
        if len(group.runs) == 1:
            continue
        found = {run: newest_config(TinyCheckpointManager(run, train_dir)) for run in group.runs}
        configs = {run: saved["config"] for run, saved in found.items() if saved is not None}
        if unread := [run for run in group.runs if run not in configs]:
            which = enumeration(unread)
            notes.append(
                f"{group.name}: no trainer file of {which} can be read, to check that it is of the same setting."
            )
        keys = sorted({key for config in configs.values() for key in config} - OF_ITS_OWN)
        for key in keys:
            values = sorted({str(config.get(key)) for config in configs.values()})
            if len(values) > 1:
                notes.append(f"{group.name} is not one setting: its runs differ in {key} ({enumeration(values)}).")
        seeds = [config.get("seed") for config in configs.values()]
        if len(set(seeds)) < len(seeds):
            notes.append(f"{group.name}: some of its runs have the same seed, so they are not that many samples.")
    return notes
