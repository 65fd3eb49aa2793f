"""The terminal as a screen with keys: entered and left as it was, also on Ctrl-C, Ctrl-Z and a signal to end."""

import os
import re
import select
import signal
import sys
import termios
import tty
from types import FrameType
from typing import NoReturn, Self

ENTER = "\x1b[?1049h\x1b[?25l\x1b[H\x1b[J"  # the other screen, no cursor, cleared
LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l"
KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Z]|.", re.DOTALL)
NAMES = {"\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left", "\t": "tab", "\x1b": "escape"}


def interactive() -> bool:
    """Whether somebody watches and can press keys."""
    return sys.stdin.isatty() and sys.stdout.isatty()


class Terminal:
    """A context: inside, keys come one by one and unechoed, and `show` fills the screen."""

    def __enter__(self) -> Self:
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._attributes = termios.tcgetattr(self._input)
        self._keys: list[str] = []
        self._old_handlers = {
            number: signal.signal(number, handler)
            for number, handler in ((signal.SIGTERM, self._terminate), (signal.SIGTSTP, self._suspend))
        }
        self._enter()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)

    def _enter(self) -> None:
        tty.setcbreak(self._input)
        self._write(ENTER)

    def _leave(self) -> None:
        self._write(LEAVE)
        termios.tcsetattr(self._input, termios.TCSAFLUSH, self._attributes)

    def _terminate(self, number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()

    def _write(self, text: str) -> None:
        left = text.encode()
        while left:
            left = left[os.write(self._output, left) :]

    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        size = os.get_terminal_size(self._output)
        return max(size.columns, 1), max(size.lines, 1)

    def show(self, lines: list[str]) -> None:
        """Fill the screen with these lines, none wider than it; what was there is drawn over, so nothing flickers."""
        rows = self.size()[1]
        self._write("\x1b[H" + "\n".join(f"{line}\x1b[0m\x1b[K" for line in lines[:rows]) + "\x1b[J")

    def key(self, wait_s: float) -> str | None:
        """The next key, by name or as the character it types; None where none is pressed in that time."""
        if not self._keys and select.select([self._input], [], [], wait_s)[0]:
            typed = os.read(self._input, 1024).decode(errors="replace")
            self._keys = [NAMES.get(key, key) for key in KEY.findall(typed)] or ["q"]  # nothing: the terminal is gone
        return self._keys.pop(0) if self._keys else None
