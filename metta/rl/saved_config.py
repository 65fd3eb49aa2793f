"""A run's configuration, read from a trainer file without torch: to check a command's arguments in milliseconds."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, Self

from metta.errors import CheckpointError, one_line

KEYS = ("config", "epoch", "agent_steps")


class Inert:
    """Stands for any class, any function and any object in the pickle: takes everything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Self:
        return self

    __setstate__ = __setitem__ = append = extend = add = __call__


class InertUnpickler(pickle.Unpickler):
    """Builds dicts, lists, tuples, numbers and strings; calls and imports nothing."""

    def find_class(self, module_name: str, global_name: str) -> type[Inert]:
        return Inert

    def persistent_load(self, pid: Any) -> None:
        return None


def read_saved_config(trainer_file: Path) -> dict[str, Any]:
    """Of the trainer state in the file: "config", "epoch" and "agent_steps". CheckpointError if they cannot be read.

    Only the pickle in the file is read, and its CRC checked, not the tensors. What is no dict, list, tuple, number or
    string in it comes out as an `Inert`.
    """
    try:
        with zipfile.ZipFile(trainer_file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            state = InertUnpickler(io.BytesIO(archive.read(name))).load()
        return {key: state[key] for key in KEYS}
    except Exception as error:  # neither zipfile nor pickle has a list of what it raises for damaged bytes
        raise CheckpointError(f"{trainer_file} cannot be read: {one_line(error)}") from error
