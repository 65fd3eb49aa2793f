"""A child process that holds one object and answers calls of its methods, over memory that both processes share.

It is a plain `python -c` child, not a multiprocessing one: the user's script is not imported a second time, and nothing
is tracked that could leak. The memory is an unnamed file, which the kernel frees when the last process that maps it is
gone, however it went. A worker sleeps on its pipe; the pipe's end ends the worker, whatever it is at.
"""

import io
import math
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable
from itertools import pairwise
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from metta.errors import EnvError

START = "import sys; sys.path = sys.argv[3:]; from metta.processes.worker import main; main(*map(int, sys.argv[1:3]))"

Layout = dict[str, tuple[tuple[int, ...], np.dtype]]  # arrays that lie one behind the other: shape and dtype by name


class Worker:
    """The process, seen from the one that started it.

    Each call is `send`, then `receive`; what goes wrong in the worker, its death included, is an EnvError here.
    """

    def __init__(self, holds: str, memory: io.IOBase, set_up: Callable[..., Any], **arguments: Any):
        """There `set_up(memory's file descriptor, connection, **arguments)` makes the object; `receive` waits for it.

        holds: what is in it, for errors.
        """
        self.holds = holds
        self.connection, theirs = Pipe()
        # Its own process group: Ctrl-C at the terminal is the parent's to answer.
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(theirs.fileno()), str(memory.fileno()), *sys.path],
            pass_fds=(theirs.fileno(), memory.fileno()),
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        theirs.close()
        self._send(pickle.dumps((set_up, arguments)))

    def send(self, method: str, *arguments: Any) -> None:
        self._send(pickle.dumps((method, arguments)))

    def step(self) -> None:
        """What `send("step")` does, in fewer bytes; and where both sides meet in the midst of a call, "go on"."""
        self._send(b"")

    def _send(self, message: bytes) -> None:
        try:
            self.connection.send_bytes(message)
        except OSError:
            raise self._death() from None

    def receive(self) -> Any:
        """What the method returned; [] where that was empty."""
        try:
            reply = self.connection.recv_bytes()
        except (EOFError, OSError):
            raise self._death() from None
        if not reply:
            return []
        failure, result = pickle.loads(reply)
        if failure is None:
            return result
        error = EnvError(failure)
        error.add_note(result)  # the worker's traceback
        raise error

    def hang_up(self) -> None:
        """Tell the process to end."""
        self.connection.close()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def _death(self) -> EnvError:
        status = self._process.wait()
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return EnvError(f"the worker process of {self.holds} died: {how}")


def end_workers(workers: list[Worker]) -> None:
    for worker in workers:
        worker.hang_up()
    for worker in workers:
        worker.wait()
    workers.clear()


def shared_memory_file(num_bytes: int) -> io.IOBase:
    """An unnamed file in memory (where the system has no such thing, in the folder for temporary files)."""
    if hasattr(os, "memfd_create"):
        file: io.IOBase = os.fdopen(os.memfd_create("metta"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (the caller closes it)
    file.truncate(num_bytes)
    return file


def shares(total: int, parts: int) -> list[range]:
    """0 to total, cut into contiguous parts as equal as can be."""
    bounds = np.linspace(0, total, parts + 1).astype(int).tolist()
    return [range(begin, end) for begin, end in pairwise(bounds)]


def num_bytes(layout: Layout) -> int:
    return sum(_bytes_of(shape, dtype) for shape, dtype in layout.values())


def arrays_over(memory: Any, layout: Layout) -> dict[str, np.ndarray]:
    """The arrays, in `memory`: a buffer of `num_bytes`."""
    arrays, offset = {}, 0
    for name, (shape, dtype) in layout.items():
        arrays[name] = np.ndarray(shape, dtype, memory, offset)
        offset += _bytes_of(shape, dtype)
    return arrays


def _bytes_of(shape: Iterable[int], dtype: np.dtype) -> int:
    return -(-math.prod(shape) * dtype.itemsize // 64) * 64  # whole cache lines


def main(connection_fd: int, memory_fd: int) -> None:
    """A worker's life: calls come through the pipe, its end is the end."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)  # the parent decides, and may need further steps to finish its epoch
    threading.Thread(target=end_with, args=(connection_fd,), daemon=True).start()
    try:
        serve(Connection(connection_fd), memory_fd)
    except (EOFError, ConnectionError):
        pass  # the parent closed the pipe, or died


def end_with(connection_fd: int) -> None:
    """Wait until the parent has closed the pipe, or died, and end the process: it may be at something long."""
    poll = select.poll()
    poll.register(connection_fd, 0)  # of the end it tells in any case
    poll.poll()
    sys.stdout.flush()  # what environments print
    os._exit(0)


def serve(connection: Connection, memory_fd: int) -> None:
    held: Any = None
    while True:
        message = connection.recv_bytes()
        try:
            if not message:
                result = held.step()
                reply = pickle.dumps((None, result)) if result else b""
            else:
                call, arguments = pickle.loads(message)
                if held is None:
                    held, result = call(memory_fd, connection, **arguments), None
                else:
                    result = getattr(held, call)(*arguments)
                reply = pickle.dumps((None, result))
        except Exception as error:  # noqa: BLE001 (raised again in the parent)
            line = str(error) if isinstance(error, EnvError | ValueError) else f"{type(error).__name__}: {error}"
            reply = pickle.dumps((line, traceback.format_exc()))
        connection.send_bytes(reply)
