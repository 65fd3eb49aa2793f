"""Saving behind the training loop's back: copy the state, go on training, and let a thread write the copy."""

import copy
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from metta.errors import SaveError, one_line, say
from metta.files.portable_pickle import bare, dumps, loads
from metta.rl.saving.retention import Epochs, Retention
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager


class CheckpointSaver:
    """Saves the checkpoints of one run in a thread, one at a time, and keeps the newest `keep_last` pairs (None: all).

    keep_epochs is asked at each save for epochs that must never be deleted. ValueError for keep_last < 1. Hold the
    run's lock: what killed saves left in the folder goes after the first save.
    """

    def __init__(self, manager: TinyCheckpointManager, keep_last: int | None = None, keep_epochs: Epochs = tuple):
        self.manager, self._retention = manager, Retention(manager, keep_last, keep_epochs)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: tuple[int, Future[None]] | None = None

    def save(self, agent: nn.Module, epoch: int, trainer_state: dict[str, Any]) -> None:
        """Copies both as they are now, and returns while a thread writes them; `wait` until they are durable.

        First waits for the save before this one. SaveError, and nothing begun, if that one has failed.
        """
        self.wait()
        self._saving = epoch, self._thread.submit(self._write, epoch, *snapshot(agent, trainer_state))

    def check(self) -> None:
        """SaveError if a save has failed that nobody was told of yet. Does not wait."""
        if self._saving is not None and self._saving[1].done():
            self.wait()

    def wait(self) -> None:
        """Returns once the last save is durable. SaveError if it has failed and nobody was told of it yet."""
        if self._saving is not None:
            epoch, written = self._saving
            error, self._saving = written.exception(), None
            if error is not None:
                raise SaveError(epoch, self.manager.folder, error) from error

    def _write(self, epoch: int, agent: nn.Module, trainer_state: dict[str, Any]) -> None:
        self.manager.save_checkpoint(agent, epoch, trainer_state)
        try:
            self._retention.apply(saved=epoch)
        except OSError as error:  # the save is whole, so training goes on
            self._retention.keep_last, self._retention.leftovers = None, []
            say(f"metta: from now on {self.manager.folder} keeps every checkpoint: {one_line(error)}")


def snapshot(agent: nn.Module, trainer_state: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Copy both deeply, the agent without its wrapper; what shares memory shares it in the copy.

    deepcopy by itself would tear parameters from what shares their memory, and refuse tensors that autograd has made.
    What a function closes over, as a hook over its agent, it does not copy: then what a file would give is the copy.
    """
    state, memo = (bare(agent), trainer_state), dict[int, Any]()
    for t in _parts(state, set()):
        if getattr(t, "__closure__", None) or getattr(t, "_backward_hooks", None):
            return loads(dumps(state))
        plain = type(t) in (torch.Tensor, nn.Parameter) and t.layout == torch.strided
        if plain and not (t.is_quantized or t.is_conj() or t.is_neg() or vars(t)):
            copied = torch.empty(0, dtype=t.dtype, device=t.device)
            copied.set_(copy.deepcopy(t.untyped_storage(), memo), t.storage_offset(), t.size(), t.stride())
            memo[id(t)] = torch.Tensor._make_subclass(type(t), copied, t.requires_grad)  # as nn.Parameter itself does
    return copy.deepcopy(state, memo)


def _parts(item: Any, seen: set[int]) -> Iterator[Any]:
    """Find the tensors and functions in modules, dicts, lists and tuples."""
    if isinstance(item, torch.Tensor) or hasattr(item, "__closure__"):
        yield item
    elif isinstance(item, nn.Module | dict | list | tuple) and id(item) not in seen:
        seen.add(id(item))
        content = vars(item) if isinstance(item, nn.Module) else item
        for value in content.values() if isinstance(content, dict) else content:
            yield from _parts(value, seen)
