"""Running a command as a user does."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

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
