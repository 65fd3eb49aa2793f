"""The actions of unfinished episodes: with its seed, the actions are an episode again."""

import math

import numpy as np


class ActionLog:
    """Stores the actions `[B, *action_shape]` of every step since the oldest unfinished episode began."""

    def __init__(self, steps: np.ndarray):
        """steps: what it begins with, `[steps, B, *action_shape]`, in the type to store."""
        self._shape, self._dtype = steps.shape[1:], steps.dtype
        self._step_bytes = math.prod(self._shape) * self._dtype.itemsize
        self._bytes = bytearray(steps.tobytes())
        self._first_step, self.next_step = 0, len(steps)

    def append(self, actions: np.ndarray) -> None:
        self._bytes += actions.astype(self._dtype).tobytes()
        self.next_step += 1

    def drop(self, oldest: int) -> None:
        """Forget the actions before step `oldest`."""
        del self._bytes[: (oldest - self._first_step) * self._step_bytes]
        self._first_step = oldest

    def since(self, step: int, rows: slice) -> np.ndarray:
        """Copy the actions in these rows from `step` on, `[steps, rows, *action_shape]`."""
        steps = np.frombuffer(self._bytes, self._dtype).reshape(-1, *self._shape)
        return steps[step - self._first_step :, rows].copy()
