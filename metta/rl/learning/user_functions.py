"""Functions of the user's own in the loop: on_epoch=."""

from collections.abc import Callable
from typing import Any

import numpy as np

from metta.errors import UserCodeError
from metta.user_code import code_name, load_function, said_where

OnEpoch = Callable[[Any, dict[str, float]], Any]  # of the trainer and the epoch's scalars; True ends training


class EpochCallback:
    """Calls the function, if there is one. What it raises is kept for later, in `error`: first comes the save."""

    def __init__(self, code: str | OnEpoch | None):
        self._name = "" if code is None else f"on_epoch={code_name(code)}"
        self._function = None if code is None else load_function("on_epoch", code, "trainer", "scalars")
        self.stopped = False
        self.error: UserCodeError | None = None

    @property
    def ended(self) -> bool:
        return self.stopped or self.error is not None

    def __call__(self, trainer: Any, scalars: dict[str, float]) -> None:
        """Call it with the trainer and the epoch's scalars, to which it may add any numbers."""
        if self._function is None:
            return
        own = dict(scalars)
        try:
            answer = self._function(trainer, scalars)
            scalars.update({str(name): float(value) for name, value in scalars.items()})
            trainer.settle()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (the user's own code)
            scalars.clear()
            scalars.update(own)
            self.error = UserCodeError(f"{self._name} raised {said_where(error)}")
            self.error.__cause__ = error
        else:
            self.stopped = isinstance(answer, bool | np.bool_) and bool(answer)
