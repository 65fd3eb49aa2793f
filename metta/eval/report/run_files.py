"""What a report says of one run's folder: its checkpoints, their scores, and what there is to watch."""

from collections import defaultdict
from dataclasses import astuple
from pathlib import Path
from typing import Any

from metta.eval.comparison import envs_of
from metta.eval.eval_db import EvalDB, Scores
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.run_folder import RunFolder
from metta.sim.recording import recorded_epoch


def run_files(db: EvalDB, train_dir: Path, run: str, group: int, history: dict[int, Scores]) -> dict[str, Any]:
    """Collect what page.js lists of a run, its files by their place in the run folder.

    epochs: those that were saved or evaluated; the agent file's name only if that is still there, each score as a list
    of numbers, and the files in `replays/` that are of the epoch. best: environment -> epoch. replays: the other files
    there.
    """
    manager = TinyCheckpointManager(run, train_dir)
    saved = set(manager.list_epochs())
    replays = replays_by_epoch(RunFolder(train_dir, run).replays)
    epochs = [
        {
            "epoch": epoch,
            "file": f"checkpoints/{manager.file('agent', epoch).name}" if epoch in saved else None,
            "scores": {env: astuple(score) for env, score in history.get(epoch, {}).items()},
            "replays": replays.pop(epoch, []),
        }
        for epoch in sorted(saved | set(history))
    ]
    envs = sorted(envs_of(history))
    best = {env: epoch for env in envs if (epoch := db.best_epoch(run, env)) is not None}
    others = sorted(name for names in replays.values() for name in names)
    return {"name": run, "group": group, "envs": envs, "best": best, "epochs": epochs, "replays": others}


def replays_by_epoch(folder: Path) -> dict[int | None, list[str]]:
    """List the files in `replays/` that are written completely, by their epoch; None: of no recording."""
    found: dict[int | None, list[str]] = defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_file() and path.suffix != ".tmp":
            found[recorded_epoch(path.name)].append(path.name)
    return found
