"""Saving behind the training loop's back: copy the state, go on training, and let a thread write the copy."""

from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import nn

from metta.errors import MettaError, one_line
from metta.rl.saving.retention import Retention
from metta.rl.saving.snapshot import Snapshot
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager


class SaveError(MettaError):
    """A checkpoint could not be saved: `epoch`. The ones before it are as they were."""

    exit_status = 1

    def __init__(self, epoch: int, folder: Path, cause: BaseException):
        super().__init__(f"could not save epoch={epoch} in {folder}: {one_line(cause)}")
        self.epoch = epoch


class CheckpointSaver:
    """Saves the checkpoints of one run in a thread, one at a time, and keeps the newest `keep_last` pairs (None: all).

    keep_epochs is asked at each save for epochs that must never be deleted. ValueError for keep_last < 1.
    """

    def __init__(
        self,
        manager: TinyCheckpointManager,
        keep_last: int | None = None,
        keep_epochs: Callable[[], Collection[int]] = tuple,
    ):
        self.manager = manager
        self._retention = Retention(manager, keep_last, keep_epochs)
        self._snapshot = Snapshot()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: tuple[int, Future[None]] | None = None

    def save(self, agent: nn.Module, epoch: int, trainer_state: dict[str, Any]) -> None:
        """Copies both as they are now, and returns while a thread writes them; `wait` until they are durable.

        First waits for the save before this one. SaveError, and nothing begun, if that one has failed.
        """
        self.wait()
        agent_copy, state_copy = self._snapshot.take((agent, trainer_state))
        self._saving = epoch, self._thread.submit(self._write, agent_copy, epoch, state_copy)

    def check(self) -> None:
        """SaveError if a save has failed that nobody was told of yet. Does not wait."""
        if self._saving is not None and self._saving[1].done():
            self.wait()

    def wait(self) -> None:
        """Returns once the last save is durable. SaveError if it has failed and nobody was told of it yet."""
        if self._saving is None:
            return
        epoch, written = self._saving
        error = written.exception()
        self._saving = None
        if error is not None:
            raise SaveError(epoch, self.manager.folder, error) from error

    def _write(self, agent: nn.Module, epoch: int, trainer_state: dict[str, Any]) -> None:
        self.manager.save_checkpoint(agent, epoch, trainer_state)
        self._retention.apply(saved=epoch)
