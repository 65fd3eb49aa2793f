"""Running a command as a user does."""

import io
import os
import subprocess
import warnings
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

from metta.tools.main import main

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run_in(folder: Path, command: Sequence[str], status: int = 0) -> tuple[str, str]:
    """What the command printed on stdout and on stderr; it must end with that exit status."""
    result = subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status, f"{command}: {result.stderr}"
    return result.stdout, result.stderr


def metta_in(folder: Path, *argv: str, status: int = 0) -> tuple[str, str]:
    """What `metta ...` printed on stdout and on stderr, in this process: two seconds sooner than by `run_in`."""
    with (
        chdir(folder),
        warnings.catch_warnings(action="default"),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        ended = main(argv)
    assert ended == status, f"{argv}: {err.getvalue()}"
    return out.getvalue(), err.getvalue()
