"""Which checkpoints of a run may go, and what a killed save or deletion left."""

import re
from collections.abc import Callable, Collection
from contextlib import suppress

from metta.errors import CheckpointError
from metta.files.durable import make_folder, sync_folder
from metta.files.pt_file import check_pair
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager

LEFTOVER = re.compile(r"(agent|trainer)_epoch_[0-9]+\.pt\.[0-9a-f]{8}\.tmp|trainer_epoch_(0|[1-9][0-9]*)\.pt")
KINDS = ("agent", "trainer")
Epochs = Callable[[], Collection[int]]


class Retention:
    """Keeps the newest `keep_last` sound pairs (None: all) and the epochs that `keep_epochs` gives, deletes the rest.

    Only whole pairs are deleted, and only those older than the pairs kept: what is incomplete or damaged does not count
    as kept, and the newest sound pair always is. A link is deleted, never what it leads to.
    """

    def __init__(self, manager: TinyCheckpointManager, keep_last: int | None, keep_epochs: Epochs):
        """Make the folder. What killed saves left there is what is there now: hold the run's lock."""
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"keep_last={keep_last}: the newest checkpoint is always kept, so at least 1")
        self.manager, self.keep_last, self.keep_epochs = manager, keep_last, keep_epochs
        self._sound: set[object] = set()  # the identities of pairs known to be sound
        make_folder(manager.folder)
        self.leftovers = [p for p in sorted(manager.folder.iterdir()) if LEFTOVER.fullmatch(p.name) and p.is_file()]

    def apply(self, saved: int | None = None) -> None:
        """Delete what may go, each agent file before its trainer file, then what killed saves and deletions left.

        saved: the epoch that this process has just saved, whose pair needs no check.
        """
        self._sound |= set() if saved is None else {self._identity(saved)}
        if self.keep_last is not None and (epochs := self._superfluous(self.keep_last)):
            for kind in KINDS:
                for epoch in epochs:
                    self.manager.file(kind, epoch).unlink(missing_ok=True)
                sync_folder(self.manager.folder)
        for path in self.leftovers:  # agents first: who is still saving in spite of the lock notices, and begins again
            agent = path.with_name(path.name.replace("trainer", "agent"))
            if path.suffix == ".tmp" or not (agent.exists() or agent.is_symlink()):
                path.unlink(missing_ok=True)
        self.leftovers = []

    def _superfluous(self, keep_last: int) -> list[int]:
        """The whole pairs older than the `keep_last` newest sound ones, without those of `keep_epochs`."""
        epochs, sound = self.manager.list_epochs(), 0
        while epochs and sound < keep_last:
            sound += self._is_sound(epochs.pop())
        kept = set(self.keep_epochs()) if epochs else set()
        return [epoch for epoch in epochs if epoch not in kept and self.manager.file("trainer", epoch).is_file()]

    def _is_sound(self, epoch: int) -> bool:
        with suppress(FileNotFoundError, CheckpointError):
            if (identity := self._identity(epoch)) not in self._sound:
                check_pair(self.manager.file("agent", epoch), self.manager.file("trainer", epoch))
                self._sound.add(identity)
            return True
        return False

    def _identity(self, epoch: int) -> object:
        """Inode, size and time of the two files: a change shows."""
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in [self.manager.file(k, epoch).stat() for k in KINDS])
