"""A program in a terminal that is none: keys go in, and what stands on its screen comes out."""

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.cells import cell_len

# The terminal becomes the program's own, so that Ctrl-C in it is a signal.
START = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
HOME = "\x1b[H"
CLEARED = "\x1b[J"
WAIT_S = 60.0


class PseudoTerminal:
    """The program in it draws whole frames, each from HOME to CLEARED."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], columns: int, rows: int):
        self._ours, self._theirs = pty.openpty()
        self.resize(columns, rows)
        self.attributes = termios.tcgetattr(self._theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *command],
            cwd=folder,
            env={**environment, "TERM": "xterm-256color"},
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
        )
        self.output = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def read(self, wait_s: float) -> None:
        """Take what comes within that time."""
        if select.select([self._ours], [], [], wait_s)[0]:
            self.output += self._decoder.decode(os.read(self._ours, 1 << 16))

    def wait_for(self, pattern: str) -> list[str]:
        """The first whole frame, drawn from now on or last, in which a regular expression is found; as lines."""
        end = time.monotonic() + WAIT_S
        while True:
            frame = self.frame()
            if frame is not None and re.search(pattern, "\n".join(map(plain, frame))):
                return frame
            assert time.monotonic() < end and self.process.poll() is None, f"never {pattern} in {self.output[-3000:]!r}"
            self.read(0.1)

    def frame(self) -> list[str] | None:
        """The lines of the last whole frame, with their escapes."""
        end = self.output.rfind(CLEARED)
        begin = self.output.rfind(HOME, 0, end) if end >= 0 else -1
        text = self.output[begin + len(HOME) : end] if begin >= 0 else ""
        return text.split("\r\n") if text else None

    def wait(self) -> int:
        """The exit status, once all output is read."""
        end = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < end, f"goes on: {self.output[-3000:]!r}"
            self.read(0.1)
        while select.select([self._ours], [], [], 0.1)[0]:
            self.read(0)
        return self.process.returncode

    def restored(self) -> bool:
        """Whether the terminal is as it was: its attributes, its screen and its cursor."""
        left = self.output.rfind("\x1b[?1049l") > self.output.rfind("\x1b[?1049h")
        shown = self.output.rfind("\x1b[?25h") > self.output.rfind("\x1b[?25l")
        return left and shown and termios.tcgetattr(self._theirs) == self.attributes


def plain(line: str) -> str:
    """A line without its escapes; going to a column is a space."""
    return re.sub(r"\x1b\[[0-9;]*m", "", re.sub(r"\x1b\[[0-9]+G", " ", line)).replace("\x1b[K", "")


def width(line: str) -> int:
    """The columns that a line takes, wide characters being two."""
    line = line.replace("\x1b[K", "")
    column = 0
    for piece in re.split(r"(\x1b\[[0-9]+G)", line):
        jump = re.fullmatch(r"\x1b\[([0-9]+)G", piece)
        column = int(jump[1]) - 1 if jump else column + cell_len(re.sub(r"\x1b\[[0-9;]*m", "", piece))
    return column
