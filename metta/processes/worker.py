"""A child process that holds one object and answers calls of its methods, over memory that both processes may share.

It is a plain `python -c` child, not a multiprocessing one: the user's script is not imported a second time, and nothing
is tracked that could leak. A worker sleeps on its pipe; when the pipe closes, the worker closes its object and ends.
"""

import atexit
import io
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

from metta.errors import EnvError, one_line
from metta.processes.stop_signals import handle

CALL_S = 0.5  # that a call may go on once nobody waits for it
CLOSE_S = 4.0  # that closing the object may take; `Worker.wait` gives all of it 5
START = "import sys; sys.path = sys.argv[2:]; from metta.processes.worker import main; main(int(sys.argv[1]))"


class Worker:
    """The process, seen from the one that started it.

    Each call is `send`, then `receive`; what goes wrong in the worker, its death included, is an EnvError here.
    """

    def __init__(self, holds: str, memory: io.IOBase | None, set_up: Callable[..., Any], **arguments: Any):
        """Have `set_up(connection=..., memory_fd=..., **arguments)` make the object there; `receive` waits for it.

        holds: what is in it, for errors. memory: a file to share; without one there is no memory_fd.
        """
        self.holds = holds
        self.connection, theirs = Pipe()
        inherited = [theirs.fileno()]  # under the same numbers there
        if memory is not None:
            inherited.append(memory.fileno())
            arguments["memory_fd"] = memory.fileno()
        # Its own process group: Ctrl-C at the terminal is the parent's to answer.
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(theirs.fileno()), *sys.path],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        theirs.close()
        self._send(pickle.dumps((set_up, arguments)))

    def send(self, method: str, *arguments: Any) -> None:
        self._send(pickle.dumps((method, arguments)))

    def step(self) -> None:
        """Do what `send("step")` does, in fewer bytes; where both sides meet in the midst of a call it says "go on"."""
        self._send(b"")

    def _send(self, message: bytes) -> None:
        try:
            self.connection.send_bytes(message)
        except OSError:
            raise self._death() from None

    def receive(self) -> Any:
        """Return what the method returned; [] if that was empty."""
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

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

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


def main(connection_fd: int) -> None:
    """Serve calls from the pipe until it closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides, and may need further steps for its epoch
        handle(number, lambda *_: None)  # signals that are ignored would be by what an environment starts, too
        signal.siginterrupt(number, False)
    closing = threading.Event()
    threading.Thread(target=end_with, args=(connection_fd, closing), daemon=True).start()
    held: list[Any] = []
    try:
        serve(Connection(connection_fd), held)
    except (EOFError, ConnectionError):  # the parent closed the pipe, or died
        closing.set()
    for each in held:
        if hasattr(each, "close"):
            each.close()
    atexit._run_exitfuncs()  # and nothing else of what the interpreter does at its end: with torch that is slow
    sys.stdout.flush()  # what environments print
    os._exit(0)


def end_with(connection_fd: int, closing: threading.Event) -> None:
    """End the process soon after the parent has closed the pipe, or died: the main thread may be in a long call."""
    poll = select.poll()
    poll.register(connection_fd, 0)  # a hang-up is reported in any case
    poll.poll()
    if closing.wait(CALL_S):
        time.sleep(CLOSE_S)
    sys.stdout.flush()
    os._exit(0)


def serve(connection: Connection, held: list[Any]) -> None:
    """Make the object, which is put into `held`, and call its methods."""
    while True:
        message = connection.recv_bytes()
        try:
            if not message:
                result = held[0].step()
                reply = pickle.dumps((None, result)) if result else b""
            else:
                call, arguments = pickle.loads(message)
                if held:
                    result = getattr(held[0], call)(*arguments)
                else:
                    held.append(call(connection=connection, **arguments))
                    result = None
                reply = pickle.dumps((None, result))
        except Exception as error:  # noqa: BLE001 (raised again in the parent)
            reply = pickle.dumps((one_line(error), traceback.format_exc()))
        connection.send_bytes(reply)
