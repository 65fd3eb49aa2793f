"""Running a command as a user does."""

import io
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

from metta.tools.main import main

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.helpers.preloaded"])


def result_of(
    folder: Path, command: Sequence[str], environment: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    """Run a command that begins with sys.executable, in a process forked from one that has imported torch: 2 s sooner.

    It shares its hash seed and what is imported with others of its kind. Tests that turn on these use subprocess.
    """
    with tempfile.TemporaryDirectory() as streams:
        out, err = Path(streams, "out"), Path(streams, "err")
        process = FORKS.Process(target=become, args=(folder, command[1:], dict(environment), out, err))
        process.start()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())


def become(folder: Path, arguments: Sequence[str], environment: dict[str, str], out: Path, err: Path) -> None:
    """Do in this process what `python ARGUMENTS` does."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    streams = ((Path(os.devnull), os.O_RDONLY), (out, os.O_WRONLY | os.O_CREAT), (err, os.O_WRONLY | os.O_CREAT))
    for number, (path, flags) in enumerate(streams):
        os.dup2(os.open(path, flags), number)
    first, *rest = arguments
    if first == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = rest
        sys.modules.pop(rest[0], None)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path.insert(0, "")
        sys.argv = [first, *rest[1:]]
        sys.modules["__main__"] = script = types.ModuleType("__main__")
        exec(rest[0], script.__dict__)  # noqa: S102 (as the interpreter does)
    else:
        sys.path.insert(0, os.path.dirname(first))
        sys.argv = list(arguments)
        runpy.run_path(first, run_name="__main__")


def run_in(folder: Path, command: Sequence[str], status: int = 0) -> tuple[str, str]:
    """What the command printed on stdout and on stderr; it must end with that exit status."""
    result = result_of(folder, command)
    assert result.returncode == status, f"{command}: {result.stderr}"
    return result.stdout, result.stderr


def metta_in(folder: Path, *argv: str, status: int = 0) -> tuple[str, str]:
    """What `metta ...` printed on stdout and on stderr, in this process: no other is started."""
    with (
        chdir(folder),
        warnings.catch_warnings(action="default"),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        ended = main(argv)
    assert ended == status, f"{argv}: {err.getvalue()}"
    return out.getvalue(), err.getvalue()
