"""A run's configuration, read from a trainer file without torch: to check a command's arguments in milliseconds."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from metta.envs.env_spec import EnvName
from metta.errors import CheckpointError, one_line
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager

KINDS: dict[str, type] = {"config": dict, "epoch": int, "agent_steps": int}  # what is read of a trainer's state
CONFIG_KINDS: dict[str, type] = {"run": str, "env": str, "env_settings": dict, "total_timesteps": int}
MOST_BYTES = 1 << 28  # of the pickle: what is not tensors, mostly the actions of unfinished episodes


class Inert:
    """Stands for any class, any function and any object in the pickle: takes everything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return super().__new__(cls)

    def __call__(self, *args: Any, **kwargs: Any) -> Self:
        return self

    __setstate__ = __setitem__ = append = extend = add = __call__


class InertUnpickler(pickle._Unpickler):
    """Builds dicts, lists, tuples, numbers and strings; calls and imports nothing.

    In Python: C's takes as much memory for its table of objects as the largest number that a file gives one says.
    """

    def find_class(self, module_name: str, global_name: str) -> type[Inert]:
        return Inert

    def persistent_load(self, pid: Any) -> None:
        return None


def newest_config(
    manager: TinyCheckpointManager, *needed: str, unread: Callable[[CheckpointError], object] = lambda error: None
) -> dict[str, Any] | None:
    """What `read_saved_config` has of the newest trainer file that can be read; None where there is none.

    unread: told of each newer one.
    """
    for epoch in reversed(manager.list_epochs()):
        try:
            return read_saved_config(manager.file("trainer", epoch), *needed)
        except CheckpointError as error:
            if epoch not in manager.list_epochs():  # deleted meanwhile, when there was a newer one
                return newest_config(manager, *needed, unread=unread)
            unread(error)
    return None


def read_saved_config(trainer_file: Path, *needed: str) -> dict[str, Any]:
    """Read "config", "epoch", "agent_steps" and "environment" of the trainer state. CheckpointError if that cannot be.

    Only the pickle in the file is read, and its CRC checked, not the tensors. What is no dict, list, tuple, number or
    string in it comes out as an `Inert`. needed: keys, of CONFIG_KINDS, that the configuration must have.
    """
    try:
        with zipfile.ZipFile(trainer_file) as archive:
            entry = next(entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl"))
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > MOST_BYTES:
                raise pickle.UnpicklingError(f"{entry.file_size} bytes of pickle, or compressed ones")
            state = InertUnpickler(io.BytesIO(archive.read(entry))).load()
    except Exception as error:  # neither zipfile nor pickle has a list of what it raises for damaged bytes
        raise CheckpointError(f"{trainer_file} cannot be read: {one_line(error)}") from error
    return checked_state(state, trainer_file, *needed)


def checked_state(state: Any, trainer_file: Path, *needed: str) -> dict[str, Any]:
    """The same of a state that was loaded already. CheckpointError where `metta train` cannot have written it."""
    saved = {key: value for key, value in state.items() if key in KINDS} if isinstance(state, dict) else {}
    config = saved.get("config")
    wrong = [key for key, kind in KINDS.items() if not isinstance(saved.get(key), kind)]
    if isinstance(config, dict):
        wrong += [f"config[{key!r}]" for key in needed if not isinstance(config.get(key), CONFIG_KINDS[key])]
    if wrong:
        raise CheckpointError(f"{trainer_file} is not of `metta train`: it has no {', no '.join(wrong)}")
    packed = state.get("environment")
    return {**saved, "environment": packed if isinstance(packed, str) else None}


def own_env(saved: dict[str, Any]) -> EnvName:
    """The run's environment, found from here on also where only the run has its code. That unpickles: trust the run."""
    from metta.envs.by_value import unpack  # which imports numpy

    unpack(saved["environment"])
    return EnvName(saved["config"]["env"], saved["config"].get("env_settings", {}))
