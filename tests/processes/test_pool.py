"""The pool of worker processes: what `concurrent.futures` promises of an Executor, with processes that may die."""

import gc
import os
import signal
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest

from metta.errors import EnvError
from metta.processes.pool import WorkerPool
from metta.processes.worker import Worker


def nap_until(path: Path) -> int:
    """The process's number, once there is such a file."""
    while not path.exists():
        time.sleep(0.001)
    return os.getpid()


def workers_of(pool: WorkerPool) -> list[Worker]:
    return list(pool._processes.workers)


def result_once_idle(pool: WorkerPool) -> int:
    """The number of a process that is idle again: a future has its result a moment before its thread is."""
    number = pool.submit(os.getpid).result()
    while pool._idle_semaphore._value == 0:
        time.sleep(0.001)
    return number


def all_ended(workers: list[Worker]) -> bool:
    return len(workers) > 0 and all(worker._process.returncode is not None for worker in workers)


def begun(future: Future) -> Future:
    while not future.running():
        time.sleep(0.001)
    return future


def test_calls_return_and_raise_what_they_would_here() -> None:
    """Another type of error than the function raised, its traceback lost; a script's function or class not found."""

    class Odd(Exception):
        pass

    def odd(number: int, text: str) -> str:
        if number % 2:
            raise Odd(f"{number} is odd")
        return text * number

    with WorkerPool(1, "a test") as pool:
        assert pool.submit(odd, 2, text="ab").result() == "abab"
        with pytest.raises(Odd, match="^3 is odd") as caught:
            pool.submit(odd, 3, text="ab").result()
        assert str(caught.value) == "3 is odd" and "in odd" in caught.value.__notes__[0]
        with pytest.raises(EnvError, match="cannot pickle"):
            pool.submit(lambda: (number for number in range(3))).result()
        assert list(pool.map(divmod, [7, 8], [2, 3])) == [(3, 1), (2, 2)]


def test_processes_start_when_a_call_finds_none_idle(tmp_path: Path) -> None:
    """Processes for nothing, or more of them than allowed."""
    with WorkerPool(2, "a test") as pool:
        assert workers_of(pool) == []
        first = {result_once_idle(pool) for _ in range(3)}
        assert len(workers_of(pool)) == len(first) == 1
        nap = begun(pool.submit(nap_until, tmp_path / "alarm"))
        other = pool.submit(os.getpid).result()  # the first is asleep
        more = [pool.submit(nap_until, tmp_path / "alarm") for _ in range(3)]
        (tmp_path / "alarm").touch()
        assert first == {nap.result()} and other not in first
        assert {one.result() for one in more} <= {*first, other}
        workers = workers_of(pool)
        assert len(workers) == 2
    assert all_ended(workers)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.submit(os.getpid)


def test_a_process_that_dies_fails_its_call_and_no_other(tmp_path: Path) -> None:
    """Waiting for ever for a process that the system killed; a pool that is of no use after that."""
    with WorkerPool(2, "a test") as pool:
        nap = begun(pool.submit(nap_until, tmp_path / "alarm"))
        doomed = pool.submit(os.kill, pool.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(EnvError, match="^the worker process of a test died: killed by signal 9$"):
            doomed.result()
        assert pool.submit(abs, -1).result() == 1
        (tmp_path / "alarm").touch()
        assert nap.result() > 0


def test_a_failed_initializer_fails_every_call() -> None:
    """Calls made in processes that were not set up."""
    with WorkerPool(1, "a test", int, ("one",)) as pool:
        for _ in range(2):
            with pytest.raises(ValueError, match="^invalid literal for int"):
                pool.submit(abs, -1).result()


def test_shutdown_without_waiting_lets_calls_end(tmp_path: Path) -> None:
    """Calls cut off in the middle; calls cancelled that nobody cancelled, or the reverse; processes that stay."""
    pools = [WorkerPool(1, "a test") for _ in range(2)]
    started = [begun(pool.submit(nap_until, tmp_path / "alarm")) for pool in pools]
    waiting = [pool.submit(abs, -1) for pool in pools]
    for pool, cancel in zip(pools, (False, True), strict=True):
        pool.shutdown(wait=False, cancel_futures=cancel)
    workers = [worker for pool in pools for worker in workers_of(pool)]
    (tmp_path / "alarm").touch()
    assert all(nap.result() > 0 for nap in started)
    assert waiting[0].result() == 1
    with pytest.raises(CancelledError):
        waiting[1].result()
    for pool in pools:
        pool.shutdown()
    assert all_ended(workers)


def test_killed_processes_end_at_once(tmp_path: Path) -> None:
    """Ctrl-C that waits for the end of what each process is at."""
    pool = WorkerPool(1, "a test")
    nap = begun(pool.submit(nap_until, tmp_path / "never"))
    waiting = pool.submit(abs, -1)
    while not (workers := workers_of(pool)):
        time.sleep(0.001)
    pool.kill_workers()
    assert all_ended(workers) and waiting.cancelled()
    with pytest.raises(EnvError, match="^the worker process of a test died: killed by signal 9$"):
        nap.result()


def test_a_pool_that_nobody_holds_ends_its_processes(tmp_path: Path) -> None:
    """Idle processes until the end of the program; or a call cut off since nobody holds its pool any more."""
    pool = WorkerPool(1, "a test")
    future = begun(pool.submit(nap_until, tmp_path / "alarm"))
    (worker,) = workers_of(pool)
    del pool
    gc.collect()
    (tmp_path / "alarm").touch()
    assert future.result() == worker._process.pid
    while worker._process.returncode is None:
        time.sleep(0.001)
