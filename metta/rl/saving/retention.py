"""Which checkpoints of a run may go, and what a killed save or deletion left."""

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

from metta.errors import CheckpointError
from metta.files.pt_file import abandoned, check, sync_folder
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager

TEMPORARY_FILE = re.compile(r"(agent|trainer)_epoch_[0-9]+\.pt\.[0-9a-f]{8}\.tmp")
KINDS = ("agent", "trainer")
TRAINER_FILE = re.compile(r"trainer_epoch_(0|[1-9][0-9]*)\.pt")

Identity = tuple[tuple[int, int, int], ...]  # inode, size and time of the two files of a pair: a change shows


class Retention:
    """Keeps the newest `keep_last` sound pairs (None: all) and the epochs that `keep_epochs` gives, deletes the rest.

    Only whole pairs are deleted, and only those older than the pairs kept: what is incomplete or damaged does not count
    as kept, and the newest sound pair always is.
    """

    def __init__(
        self, manager: TinyCheckpointManager, keep_last: int | None, keep_epochs: Callable[[], Collection[int]]
    ):
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"keep_last={keep_last}: the newest checkpoint is always kept, so at least 1")
        self.manager = manager
        self.keep_last = keep_last
        self.keep_epochs = keep_epochs
        self._sound: set[Identity] = set()  # of the pairs known so far to be sound

    def apply(self, saved: int | None = None) -> None:
        """Deletes what may go, each agent file before its trainer file, then what was left behind by killed saves.

        saved: the epoch that this process has just saved, whose pair needs no check.
        """
        if saved is not None:
            self._sound.add(self._identity(saved))
        if self.keep_last is not None:
            epochs = self._superfluous(self.keep_last)
            for kind in KINDS:
                for epoch in epochs:
                    self.manager.file(kind, epoch).unlink(missing_ok=True)
                if epochs:
                    sync_folder(self.manager.folder)
        self._remove_leftovers()

    def _superfluous(self, keep_last: int) -> list[int]:
        """The whole pairs older than the `keep_last` newest sound ones, without those of `keep_epochs`."""
        epochs, sound = self.manager.list_epochs(), 0
        while epochs and sound < keep_last:
            sound += self._is_sound(epochs.pop())
        kept = set(self.keep_epochs()) if epochs else set()
        return [epoch for epoch in epochs if epoch not in kept and self.manager.file("trainer", epoch).is_file()]

    def _is_sound(self, epoch: int) -> bool:
        try:
            identity = self._identity(epoch)
            if identity not in self._sound:
                for kind in KINDS:
                    check(self.manager.file(kind, epoch))
                self._sound.add(identity)
        except (FileNotFoundError, CheckpointError):
            return False
        return True

    def _identity(self, epoch: int) -> Identity:
        stats = [self.manager.file(kind, epoch).stat() for kind in KINDS]
        return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)

    def _remove_leftovers(self) -> None:
        """Removes temporary files of dead processes, and trainer files whose agent file is gone or never came.

        A live save holds a lock on both its files until the agent file has its name.
        """
        for name in os.listdir(self.manager.folder):
            trainer_file = TRAINER_FILE.fullmatch(name)
            if trainer_file:
                self._remove(name, unless=self.manager.file("agent", int(trainer_file[1])))
            elif TEMPORARY_FILE.fullmatch(name):
                self._remove(name, unless=None)

    def _remove(self, name: str, unless: Path | None) -> None:
        """Removes the file, unless a save is working on it or the file `unless` is there."""
        file = self.manager.folder / name
        if unless is not None and os.path.lexists(unless):
            return
        with abandoned(file) as free:
            if free and not (unless is not None and os.path.lexists(unless)):  # it may have come before the lock
                file.unlink()
