"""Files that are whole or not there, whenever the power goes: written beside their place, synced, renamed over it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from metta.errors import UserError


@contextmanager
def written_beside(path: Path, write: Callable[[IO[bytes]], object]) -> Iterator[Path]:
    """Have `write` fill a new file beside `path`, whole and synced, to be renamed. An error removes it again."""
    make_folder(path.parent)
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")  # a name that no reader takes for a result
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def rename_over(temporary: Path, path: Path) -> None:
    """Put the file in the place of `path`, durably. A link there is replaced, never what it leads to."""
    os.replace(temporary, path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, durably. UserError where a link leads nowhere."""
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"{folder} is a link to {folder.readlink()}, where nothing is")
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, as they are now."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
