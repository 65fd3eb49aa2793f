"""Where the files of a run lie. A run is a folder of train_dir; every path in it is built here and nowhere else."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metta.errors import UserError

Folder = str | Path
CURVES = re.compile(r"events\.out\.tfevents\..+?(?:\.part(\d+))?")  # TensorBoard's, with our suffix
TAKEN = r"(?i:eval\.db(-wal|-shm|-journal)?|report\.html)"  # files of train_dir
RUN_NAME = re.compile(rf"(?!(\.+|{TAKEN})$)[A-Za-z0-9._-]{{1,200}}")  # so that names made from it fit into 255 bytes


def expanded(place: Folder) -> Path:
    """A path in which ~ is the home folder, as in a shell."""
    try:
        return Path(os.path.expanduser(place))
    except TypeError:
        raise UserError(f"{place!r}: not a path") from None


def absolute(place: Folder) -> str:
    """A path as it is meant now, for the user's environment may change the current folder; a URL as it is."""
    return str(place) if "://" in str(place) else os.path.abspath(expanded(place))


class TrainDir:
    """The folder of all runs, with the scores of all of them."""

    def __init__(self, path: Folder):
        self.path = expanded(path)
        self.eval_db = self.path / "eval.db"

    def runs(self) -> list["RunFolder"]:
        """The folders that can be a run's, by name; [] where there is no train_dir yet."""
        names = sorted(path.name for path in self.path.iterdir() if path.is_dir()) if self.path.is_dir() else []
        return [RunFolder(self.path, name) for name in names if RUN_NAME.fullmatch(name)]


class RunFolder:
    """One run's folder, which need not exist. UserError for a name that no run can have."""

    def __init__(self, train_dir: Folder, name: str):
        if not isinstance(name, str) or not RUN_NAME.fullmatch(name):
            why = "use letters, digits, '.', '_' and '-', at most 200"
            why = "train_dir has a file of that name" if re.fullmatch(TAKEN, str(name)) else why
            raise UserError(f"run={name!r} is not a run name: {why}")
        self.name = name
        self.path = expanded(train_dir) / name
        self.checkpoints = self.path / "checkpoints"
        self.replays = self.path / "replays"  # recorded episodes, and the films and pages made of them
        self.lock = self.path / "trainer.lock"  # held by the process that trains the run

    @contextmanager
    def cleaned_up(self) -> Iterator[None]:
        """Remove the folders made meanwhile that nothing lies in: those of a run that could not begin."""
        new = [path for path in (self.checkpoints, self.path, *self.path.parents) if not path.exists()]
        try:
            yield
        finally:
            for path in new:
                with suppress(OSError):  # not there, or not empty
                    path.rmdir()

    @property
    def curves(self) -> list[tuple[int, Path]]:
        """TensorBoard's event files, each with its part of the curves: by number, for the clock can be set back.

        What others wrote beside it has none, and is part 0.
        """
        files = [(CURVES.fullmatch(path.name), path) for path in self.path.glob("events.*")]
        return sorted((int(found[1] or 0), path) for found, path in files if found)
