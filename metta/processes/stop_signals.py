"""SIGINT, SIGTERM and SIGHUP: the first asks to stop after the epoch, the second leaves at once."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal was closed


class StopSignals:
    """While entered, `received` is the first signal's number, or None. Committed checkpoints survive both kinds.

    In a thread other than the main one, where Python lets nobody handle signals, it stays None.
    """

    received: int | None = None

    def __init__(self, newest_epoch: Callable[[], int | None], quiet: bool = False):
        """newest_epoch: the newest that is saved, None where none is; what leaving at once says, unless `quiet`."""
        self._newest_epoch, self._quiet = newest_epoch, quiet

    def __enter__(self) -> Self:
        signals = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        self._previous = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            epoch = self._newest_epoch()
            saved = "nothing is saved" if epoch is None else f"epoch {epoch} is the newest saved"
            self._say(f"left at once; {saved}")
            os._exit(128 + number)
        self.received = number
        self._say("finishing the epoch and saving; once more to leave at once")

    def _say(self, text: str) -> None:
        """Write to stderr from a signal handler, where print may be at work already; nobody may be there to read it."""
        if not self._quiet:
            with suppress(OSError):
                os.write(2, f"\n{text}\n".encode())
