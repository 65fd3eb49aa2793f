"""Executors (concurrent.futures) on other machines: SLURM by submitit, and Ray, imported when they are opened.

A task is a function and its arguments, and may be done more than once: one whose machine was lost is started again.
"""

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import cloudpickle

from metta.errors import EnvError, MettaError, needed, one_line, say
from metta.processes.pool import outcome

POLL_S = 0.5  # from one look at the tasks to the next; those that came meanwhile are started together
ATTEMPTS = 4  # to get a task done before it is given up


class LostError(MettaError):
    """The task's process or machine has gone."""


class Backend(Protocol):
    """Starts pickled calls elsewhere, as many at once as there are, and hands back what `outcome` made of each."""

    def start(self, calls: Sequence[bytes]) -> Sequence[Any]: ...

    def result(self, handle: Any) -> tuple[Exception | None, Any] | None:
        """None as long as it is not done. LostError if it never will be."""

    def cancel(self, handle: Any) -> None: ...

    def close(self) -> None: ...


@dataclass
class Task:
    """A pickled call, and its promise. `handle`: the backend's, of this attempt."""

    future: Future[Any]
    call: bytes
    attempt: int = 1
    handle: Any = None


class RemoteExecutor(Executor):
    """Runs calls by a backend. What a call raises, its future raises; an EnvError where it was lost ATTEMPTS times."""

    def __init__(self, backend: Backend):
        self._backend, self._new, self._running = backend, SimpleQueue[Task](), list[Task]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = Future[Any]()
        future.set_running_or_notify_cancel()
        self._new.put(Task(future, cloudpickle.dumps((fn, args, kwargs))))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End it, and cancel what is not done: wait for the futures before."""
        self._ended.set()
        self._thread.join()
        self._backend.close()

    def _watch(self) -> None:
        """Start what is new and look at what runs, until the end."""
        while not self._ended.wait(POLL_S):
            new = [self._new.get() for _ in range(self._new.qsize())]  # nobody else takes from it
            try:
                for task, handle in zip(new, self._backend.start([t.call for t in new]) if new else (), strict=True):
                    task.handle = handle
                    self._running.append(task)
                self._running = [task for task in self._running if not self._is_done(task)]
            except Exception as error:  # noqa: BLE001 (a scheduler that refuses: whoever waits for a task is told)
                for task in (*new, *self._running):
                    if not task.future.done():
                        task.future.set_exception(EnvError(f"the tasks cannot be run: {one_line(error)}"))
                self._running = []
        for task in self._running:
            self._backend.cancel(task.handle)

    def _is_done(self, task: Task) -> bool:
        """Pass on what came of a task. One that was lost is new again."""
        try:
            found = self._backend.result(task.handle)
        except LostError as lost:
            if task.attempt == ATTEMPTS:
                task.future.set_exception(EnvError(f"a task was lost {ATTEMPTS} times: {one_line(str(lost))}"))
            else:
                say(f"metta: a task was lost, and is started again: {one_line(str(lost))}")
                self._new.put(Task(task.future, task.call, task.attempt + 1))
            return True
        if found is None:
            return False
        error, result = found
        if error is None:
            task.future.set_result(result)
        else:
            error.add_note(result)
            task.future.set_exception(error)
        return True


class Slurm:
    """Job arrays of SLURM, with sbatch's options from SBATCH_PARTITION and the like. Without SLURM: processes here."""

    def __init__(self, folder: Path):
        """folder: for calls, results and logs, seen by all nodes; it goes in the end, unless a task was lost."""
        submitit: Any = needed("submitit", "executor=slurm", "slurm")
        self._folder, self._lost = folder, False
        self._uncompleted = submitit.core.utils.UncompletedJobError
        self._executor: Any = submitit.AutoExecutor(folder)
        self._executor.update_parameters(name="metta", timeout_min=60, cpus_per_task=1)
        if self._executor.cluster == "local":
            say("metta: no SLURM here, so the tasks run on this machine")

    def start(self, calls: Sequence[bytes]) -> Sequence[Any]:
        return list(self._executor.map_array(outcome, calls))

    def result(self, handle: Any) -> tuple[Exception | None, Any] | None:
        if not handle.done():
            return None
        try:
            return handle.result()
        except self._uncompleted as error:
            self._lost = True
            raise LostError(f"job {handle.job_id}, {handle.paths.stderr}") from error

    def cancel(self, handle: Any) -> None:
        handle.cancel()

    def close(self) -> None:
        if not self._lost:  # otherwise its logs say why
            shutil.rmtree(self._folder, ignore_errors=True)
            with suppress(OSError):  # another command's tasks are in it
                self._folder.parent.rmdir()


class Ray:
    """Tasks of the Ray cluster of RAY_ADDRESS or of this machine; where there is none, of one that starts here."""

    def __init__(self) -> None:
        self._ray: Any = needed("ray", "executor=ray", "ray")
        self._own = not self._ray.is_initialized()
        if self._own:
            self._ray.init(include_dashboard=None, log_to_driver=False, logging_level="ERROR")
        self._call: Any = self._ray.remote(max_retries=0)(outcome)

    def start(self, calls: Sequence[bytes]) -> Sequence[Any]:
        return [self._call.remote(call) for call in calls]

    def result(self, handle: Any) -> tuple[Exception | None, Any] | None:
        done, _ = self._ray.wait([handle], timeout=0)
        if not done:
            return None
        try:
            return self._ray.get(handle)
        except self._ray.exceptions.RayError as error:
            raise LostError(str(error).partition("\n")[0]) from error

    def cancel(self, handle: Any) -> None:
        self._ray.cancel(handle, force=True)

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()


def open_executor(name: str, folder: Path) -> RemoteExecutor | None:
    """Open the executor of this name: slurm, with `folder` for its files, or ray; None for local."""
    match name:
        case "slurm":
            return RemoteExecutor(Slurm(folder / f"{os.getpid()}"))
        case "ray":
            return RemoteExecutor(Ray())
    return None
