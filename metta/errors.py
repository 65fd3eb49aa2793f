"""The errors that are one line for the user, each with its exit status, and what such a line is made of."""

import functools
import importlib
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

PASSWORD = re.compile(r"(?<=://)([^:/?#@\s]*):\S*@|(?<=[?&])(password=)[^&\s]*")  # in a URL


class MettaError(Exception):
    """One line for the user: what is wrong, where, and what exists instead. `metta` prints it and exits."""

    exit_status = 2


class UserError(MettaError, ValueError):
    """A key, name or setting that cannot be what it was given as."""


class CheckpointError(MettaError):
    """This file cannot be read as a checkpoint."""


class UnsoundError(CheckpointError):
    """The file is at fault: damaged, missing, or of another save than its partner. An older checkpoint may be sound."""


class SaveError(MettaError):
    """A checkpoint could not be saved: `epoch`. The ones before it are as they were."""

    exit_status = 1

    def __init__(self, epoch: int, folder: Path, cause: BaseException):
        super().__init__(f"could not save epoch={epoch} in {folder}: {one_line(cause)}")
        self.epoch = epoch


class RunLockedError(MettaError):
    """The run is held by another trainer, or cannot be held."""


class EnvError(MettaError, RuntimeError):
    """An environment, or the worker process that held it, failed."""

    exit_status = 1


class RankError(MettaError):
    """Another rank of the training is gone, or has failed."""

    exit_status = 1


class TrainingError(MettaError):
    """Training cannot go on: what it learned is no number."""

    exit_status = 1


class UserCodeError(MettaError):
    """A function of the user's own, called in the loop, failed."""

    exit_status = 1


def needed(module: str, what: str, extra: str, instead: str = "") -> ModuleType:
    """Import a package that not everyone has. UserError, with metta's extra that brings it, where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{what} needs {module} (pip install 'metta[{extra}]'){instead}") from None


def say(text: str) -> None:
    """Print a line to stderr if there is still somebody to read it."""
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


say_once = functools.cache(say)


def one_line(said: object) -> str:
    """Format an error or a text for one line of a terminal: no line ends or passwords, what is unprintable escaped.

    An exception that is not metta's own is named by its type.
    """
    foreign = isinstance(said, BaseException) and not isinstance(said, MettaError)
    text = hide_password(" ".join(f"{type(said).__name__}: {said}".split() if foreign else str(said).split()))
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def hide_password(text: str) -> str:
    """Replace the passwords of the URLs in a text."""
    return PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[2] is None else f"{found[2]}***", text)


def enumeration(items: Sequence[object]) -> str:
    """List all of a few items, the first and the last of many."""
    if len(items) <= 12:
        return ", ".join(map(str, items))
    return f"{', '.join(map(str, items[:4]))}, ..., {', '.join(map(str, items[-4:]))} ({len(items)} in all)"
