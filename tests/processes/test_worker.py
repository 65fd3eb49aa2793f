"""A worker process of its own, whatever it holds."""

import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

SCRIPT = """
import sys
import time
from metta.processes.worker import Worker
from tests.processes import test_worker

worker = Worker("a sleeper", None, getattr(test_worker, sys.argv[1]))
if sys.argv[1] == "Clinger":
    worker.receive()
time.sleep(600)
"""


def sleeper(connection: Connection) -> None:
    print("asleep", flush=True)
    time.sleep(600)


class Clinger:
    """Does not let itself be closed."""

    def __init__(self, connection: Connection):
        print("asleep", flush=True)

    def close(self) -> None:
        time.sleep(600)


@pytest.mark.parametrize("kind", ["sleeper", "Clinger"])
def test_a_worker_ends_with_its_parent(kind: str) -> None:
    """A process that plays on for minutes after the one that asked for it was killed, or hangs in closing."""
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, kind], cwd=root, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "asleep\n"
    parent.kill()
    rest, _ = parent.communicate(timeout=60)  # which ends once the worker has closed its side too
    assert rest == "" and parent.returncode == -9
