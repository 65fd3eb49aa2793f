"""A worker process of its own, whatever it holds."""

import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

SCRIPT = """
import time
from metta.processes.worker import Worker
from tests.processes.test_worker import sleeper

worker = Worker("a sleeper", None, sleeper)
time.sleep(600)
"""


def sleeper(connection: Connection) -> None:
    print("asleep", flush=True)
    time.sleep(600)


def test_a_busy_worker_ends_with_its_parent() -> None:
    """A process that plays on for minutes after the one that asked for it was killed."""
    root = Path(__file__).parents[2]
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=root, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "asleep\n"
    parent.kill()
    rest, _ = parent.communicate(timeout=60)  # which ends once the worker has closed its side too
    assert rest == "" and parent.returncode == -9
