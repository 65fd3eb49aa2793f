"""Signals are heard by the process that asked for them, and by none that it starts."""

import multiprocessing
import signal
import time

from metta.processes.stop_signals import StopSignals


def test_a_forked_process_ends_when_it_is_told() -> None:
    """A SIGTERM taken for the parent's, or lost as it came while Python set itself up or before it slept."""
    with StopSignals() as signals:
        processes = [multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)) for _ in range(200)]
        for process in processes:
            process.start()
            process.terminate()
        for process in processes:
            process.join(20)
        still = [process for process in processes if process.exitcode is None]
        for process in still:
            process.kill()
        assert {process.exitcode for process in processes} == {-signal.SIGTERM} and signals.received is None
