"""A `concurrent.futures.Executor` over `Worker`: calls are made in child processes, one at a time in each."""

import pickle
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from metta.errors import EnvError
from metta.processes.worker import Worker, end_workers


class WorkerPool(ThreadPoolExecutor):
    """Runs calls in at most `max_workers` processes, each started when a call finds no idle one.

    A thread for each process waits for it. Functions are pickled by name, or by value if they are written in a script;
    what one raises, `Future.result` raises. A process that dies fails its call with an EnvError in one line, and is
    replaced for the next. holds: what the processes are for, in that error. initializer: called in each process before
    it takes a call; if it fails, so do the calls.
    """

    def __init__(self, max_workers: int, holds: str, initializer: Callable[..., Any] = bool, initargs: tuple = ()):
        self._processes = Processes(holds, cloudpickle.dumps((initializer, initargs, {})))
        super().__init__(max_workers, holds, initializer=self._processes.start)
        self._finalizer = weakref.finalize(self, end_workers, self._processes.workers)
        self._ending = threading.Lock()  # whoever waits returns once the processes have ended, whoever ends them

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes once the calls are done. Happens by itself when the pool is collected."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            with self._ending:
                self._finalizer()
        else:
            threading.Thread(target=self.shutdown).start()

    def kill_workers(self) -> None:
        """Shut down at once: cancel the calls that wait, kill the processes, fail the calls that they are at."""
        super().shutdown(wait=False, cancel_futures=True)
        self._processes.kill()
        self.shutdown()

    def _call(self, fn: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call the function in the process of this thread."""
        error, result = pickle.loads(self._processes.call(cloudpickle.dumps((fn, args, kwargs))))
        if error is not None:
            error.add_note(result)
            raise error
        return result


class Processes:
    """The pool's workers, one for each of its threads, which hold this object and so do not keep the pool alive."""

    def __init__(self, holds: str, initializer: bytes):
        self.workers: list[Worker] = []
        self._holds, self._initializer = holds, initializer
        self._killed = False
        self._own = threading.local()  # worker: that of the calling thread, or None

    def start(self) -> None:
        """Start the calling thread's worker, and wait until it is ready. If that fails, its first call raises."""
        self._own.worker = None
        with suppress(EnvError, OSError):
            self._own.worker = self._new_worker()
            self._own.worker.receive()

    def call(self, pickled: bytes) -> bytes:
        """Have the calling thread's worker make a call; returns its `outcome`, pickled."""
        worker: Worker | None = self._own.worker
        try:
            if worker is None:
                worker = self._own.worker = self._new_worker()
                worker.receive()
            worker.send("call", pickled)
            return worker.receive()
        except EnvError:
            if worker is not None and worker.ended:
                self._own.worker = None
            raise

    def kill(self) -> None:
        self._killed = True  # before the loop: `_new_worker` looks at it after it has put its own into the list
        for worker in self.workers:
            worker.kill()

    def _new_worker(self) -> Worker:
        worker = Worker(self._holds, None, Calls, initializer=self._initializer)
        self.workers.append(worker)
        if self._killed:
            worker.kill()
        return worker


class Calls:
    """What a pool's worker holds."""

    def __init__(self, connection: Connection, initializer: bytes):
        error, text = outcome(initializer)
        self._failure = None if error is None else (error, text)

    def call(self, pickled: bytes) -> bytes:
        return cloudpickle.dumps(self._failure or outcome(pickled))


def outcome(pickled: bytes) -> tuple[Exception | None, Any]:
    """Call a pickled (function, arguments, keywords): (None, what it returned) or (what it raised, the traceback)."""
    try:
        function, arguments, keywords = pickle.loads(pickled)
        return None, function(*arguments, **keywords)
    except Exception as error:  # noqa: BLE001 (raised again by Future.result)
        return error, traceback.format_exc()
