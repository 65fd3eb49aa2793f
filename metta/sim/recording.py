"""Recorded episodes in the run folder: the seeds and actions of one evaluation, from which it can be played again."""

import hashlib
import re
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from metta.envs.env_spec import EnvName
from metta.envs.vec_env import Episode
from metta.files.durable import rename_over, written_beside
from metta.run_folder import RunFolder

RECORDED = re.compile(r"epoch_(0|[1-9][0-9]*)_(?:.+\.npz|.+_seed_[0-9]+\..+)")
MOST_LETTERS = 180  # of an environment in a file's name, which with all else may have 255


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
    """Name the file of an evaluation: `replays/epoch_100_arena.npz`.

    Odd characters become %2F and the like; of a long label its digest stands for the end.
    """
    env = quote(label, safe="[]=,+")
    if len(env) > MOST_LETTERS:
        env = f"{env[: MOST_LETTERS - 13]}~{hashlib.sha256(label.encode()).hexdigest()[:12]}"
    return run.replays / f"epoch_{epoch}_{env}.npz"


def recorded_epoch(name: str) -> int | None:
    """Read the epoch from the name of a file in `replays/`: recordings, or a film or page of one. Else None."""
    found = RECORDED.fullmatch(name)
    return int(found[1]) if found else None


def save_recordings(path: Path, episodes: list[Episode], places: Sequence[str] = (), code: str = "") -> None:
    """Replace an earlier evaluation's recordings by these, atomically.

    places: the environment's name and its wrappers', with their folders. code: the digest of what lies there.
    """
    arrays: dict[str, np.ndarray] = {"env": np.array(places, str), "code": np.array(code)}
    for episode in episodes:
        arrays[f"{episode.seed}.actions"] = episode.actions
        arrays[f"{episode.seed}.returns"] = episode.returns
    with written_beside(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays)) as partial:
        rename_over(partial, path)


def recorded_seeds(path: Path) -> list[int]:
    """List the seeds recorded in the file, ascending; [] if there is no such file."""
    if not path.exists():
        return []
    with path.open("rb") as file, np.load(file) as arrays:
        return sorted(int(name.split(".")[0]) for name in arrays.files if name.endswith(".actions"))


def recorded_places(run: RunFolder, label: str) -> list[str]:
    """The places that the run's recordings with this label were saved with; [] where none can be read."""
    paths = sorted(run.replays.glob("*.npz"))
    alike = [path for path in paths if path == recording_path(run, recorded_epoch(path.name) or 0, label)]
    return next(filter(None, (recorded_code(path)[0] for path in alike)), [])


def recorded_code(path: Path) -> tuple[list[str], str]:
    """The places that the recordings were saved with, and the digest of what lay there; [] and "" where unknown."""
    damage = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
    with suppress(*damage), np.load(path) as arrays:
        return arrays["env"].astype(str).ravel().tolist(), str(arrays.get("code", ""))
    return [], ""


def load_recording(path: Path, seed: int) -> Recording:
    """Load the episode of one of the `recorded_seeds`."""
    with path.open("rb") as file, np.load(file) as arrays:
        return Recording(seed, arrays[f"{seed}.actions"], arrays[f"{seed}.returns"])
