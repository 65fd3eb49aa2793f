"""SIGINT, SIGTERM and SIGHUP: the first asks to stop at the next good place, the second leaves at once."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal was closed
BEFORE: dict[int, Any] = {}  # what did each signal's work that `handle` has taken over
MASK = threading.local()  # .before: the signals that the forking thread had blocked


class StopSignals:
    """While entered, `received` is the first signal's number, or None.

    In a thread other than the main one, where Python lets nobody handle signals, it stays None; so it does at a SIGHUP
    under nohup. A SIGINT counts also where it is ignored, as a script's jobs in the background have it.
    """

    received: int | None = None

    def __init__(self, first: str = "", second: Callable[[], str] = str):
        """first, second: what the first and the second signal say; "" says nothing."""
        self.first, self._second = first, second

    def __enter__(self) -> Self:
        signals = SIGNALS if threading.current_thread() is threading.main_thread() else ()
        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        heard = [number for number in signals if not (nohup and number == signal.SIGHUP)]
        self._previous = {number: handle(number, self._handle) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
            if BEFORE.get(number) is handler:
                del BEFORE[number]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            say_at_once(self._second())
            os._exit(128 + number)
        self.received = number
        say_at_once(self.first)


def handle(number: int, handler: Any) -> Any:
    """As signal.signal, in this process alone: one that it forks, as an environment may, goes on as before."""
    before = signal.signal(number, handler)
    BEFORE.setdefault(number, before)
    return before


def hold_signals() -> None:
    """Before a fork: a signal waits until the new process is one of its own."""
    MASK.before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def let_signals_come() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, MASK.before)


def forget_signals() -> None:
    """In a new process: signals do what they did before any was handled here."""
    for number, handler in BEFORE.items():
        signal.signal(number, handler or signal.SIG_DFL)
    BEFORE.clear()
    let_signals_come()


os.register_at_fork(before=hold_signals, after_in_parent=let_signals_come, after_in_child=forget_signals)


def say_at_once(text: str) -> None:
    """Write to stderr from a signal handler, where print may be at work already; nobody may be there to read it."""
    if text:
        with suppress(OSError):
            os.write(2, f"\n{text}\n".encode())
