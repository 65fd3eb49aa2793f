"""Recorded episodes in the run folder: the seeds and actions of one evaluation, from which it can be played again."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metta.envs.vec_env import Episode
from metta.errors import UserError
from metta.run_folder import RunFolder

RECORDED = re.compile(r"epoch_(0|[1-9][0-9]*)_.*")


@dataclass(frozen=True)
class Recording:
    """One episode: its seed, its actions `[length, num_agents, *action_shape]`, its returns `[num_agents]`."""

    seed: int
    actions: np.ndarray
    returns: np.ndarray


def recording_path(run: RunFolder, epoch: int, env_label: str) -> Path:
    """`replays/epoch_100_arena.npz`; what a file name should not hold becomes a '-'."""
    return run.replays / f"epoch_{epoch}_{re.sub(r'[^A-Za-z0-9._=,+-]+', '-', env_label)}.npz"


def recorded_epoch(name: str) -> int | None:
    """The epoch of a file in `replays/`, by its name: of recordings, or of what was made of one."""
    found = RECORDED.fullmatch(name)
    return int(found[1]) if found else None


def save_recordings(path: Path, episodes: list[Episode]) -> None:
    """Write them in place of an earlier evaluation's, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    for episode in episodes:
        arrays[f"{episode.seed}.actions"] = episode.actions
        arrays[f"{episode.seed}.returns"] = episode.returns
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def recorded_seeds(path: Path) -> list[int]:
    """The seeds recorded in the file, in order; none where there is no such file."""
    if not path.exists():
        return []
    with np.load(path) as arrays:
        return sorted(int(name.split(".")[0]) for name in arrays.files if name.endswith(".actions"))


def load_recording(path: Path, seed: int) -> Recording:
    """One recorded episode. UserError where that seed was not recorded."""
    seeds = recorded_seeds(path)
    if seed not in seeds:
        have = f"has seeds {seeds[0]} to {seeds[-1]}" if seeds else "does not exist"
        raise UserError(f"no recorded episode with seed={seed}: {path} {have}")
    with np.load(path) as arrays:
        return Recording(seed, arrays[f"{seed}.actions"], arrays[f"{seed}.returns"])
