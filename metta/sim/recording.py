"""Recorded episodes in the run folder: the seeds and actions of one evaluation, from which it can be played again."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from metta.envs.env_spec import EnvName
from metta.envs.vec_env import Episode
from metta.errors import UserError
from metta.files.durable import rename_over, written_beside
from metta.run_folder import RunFolder

RECORDED = re.compile(r"epoch_(0|[1-9][0-9]*)_(?:(.+)\.npz|(.+)_seed_[0-9]+\..+)")


@dataclass(frozen=True)
class Recording:
    """One episode: its seed, its actions `[length, num_agents, *action_shape]`, its returns `[num_agents]`."""

    seed: int
    actions: np.ndarray
    returns: np.ndarray


@dataclass(frozen=True)
class Source:
    """Where a recording comes from: what is needed to play it again, and to say which it is."""

    run: str
    epoch: int
    env: EnvName
    recording: Recording


def recording_path(run: RunFolder, epoch: int, label: str) -> Path:
    """`replays/epoch_100_arena.npz`, a file of its own for each label: odd characters become %2F and the like."""
    return run.replays / f"epoch_{epoch}_{quote(label, safe='[]=,+')}.npz"


def recorded_in(name: str) -> tuple[int, str] | None:
    """Epoch and label of a file in `replays/`, by its name: of recordings, or of what was made of one."""
    found = RECORDED.fullmatch(name)
    return (int(found[1]), unquote(found[2] or found[3])) if found else None


def save_recordings(path: Path, episodes: list[Episode]) -> None:
    """Write them in place of an earlier evaluation's, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    for episode in episodes:
        arrays[f"{episode.seed}.actions"] = episode.actions
        arrays[f"{episode.seed}.returns"] = episode.returns
    with written_beside(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays)) as partial:
        rename_over(partial, path)


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
