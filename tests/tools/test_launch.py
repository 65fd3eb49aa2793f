"""tools/*.py: which interpreter runs them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ENVIRONMENT, ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose .venv has a python that says only that it was asked."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / "metta").symlink_to(ROOT / "metta")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "the .venv of the checkout: $*"\n')
    python.chmod(0o755)
    return tmp_path


def launch(checkout: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *options, "tools/train.py", "no_such=1"]
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def test_the_interpreter_that_was_given_is_used(checkout: Path) -> None:
    """Prevents packages that a user installed (Box2D, MuJoCo) from being reported missing: .venv has none of them."""
    done = launch(checkout)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("metta train: unknown key no_such=")


def test_one_that_lacks_what_metta_needs_hands_over(checkout: Path) -> None:
    """Prevents ./tools/train.py under the system's Python from ending in an ImportError beside a .venv that works."""
    without_packages = "-S"
    assert launch(checkout, without_packages).stdout == "the .venv of the checkout: tools/train.py no_such=1\n"
    (checkout / ".venv/bin/python").unlink()
    done = launch(checkout, without_packages)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("metta train: ") and "torch" in done.stderr and "run `make .venv`" in done.stderr
