"""SIGINT and SIGTERM: the first asks to stop after the epoch, the second leaves at once."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While entered, `received` is the first signal's number, or None. Committed checkpoints survive both kinds.

    In a thread other than the main one, where Python lets nobody handle signals, it stays None.
    """

    received: int | None = None

    def __enter__(self) -> Self:
        signals = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self._previous = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        os.write(2, b"\nfinishing the epoch and saving; once more to leave at once\n")
