"""One trainer for each run: an advisory lock on a file in its folder that dies with its process, whatever killed it.

It is a POSIX record lock: processes forked off the trainer do not inherit it, so none outlives the trainer with the
lock held. Two oddities of such locks are met here. They let in a second holder within the same process, so `_held` has
what this process holds. And closing any descriptor of the file drops the lock, so a file that is held here is never
opened a second time, and nothing else has a reason to open it.
"""

import fcntl
import os
import socket
import threading
from pathlib import Path
from typing import Self

from metta.errors import MettaError

FileId = tuple[int, int]  # device and inode

_held: dict[FileId | None, int] = {}  # lock files -> the process that holds them (a forked one sees its parent's)
_held_changes = threading.Lock()


class RunLockedError(MettaError):
    """The run is held by another trainer."""


class RunLock:
    """Holds a run from `acquire` to `release`, or within a `with`, by its lock file (its folder is made if missing).

    RunLockedError if it is held already, be it in this process.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _held_changes:
            descriptor = None
            while descriptor is None:
                descriptor = self._lock()
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
            _held[_file_id(descriptor)] = os.getpid()
            self._descriptor = descriptor

    def release(self) -> None:
        """Gives the run back and removes the lock file. Does nothing where it is not held, as in a forked process."""
        with _held_changes:
            if self._descriptor is None:
                return
            file_id = _file_id(self._descriptor)
            if _held.get(file_id) == os.getpid():
                if _file_id(self.path) == file_id:
                    self.path.unlink()  # while locked: who has opened it meanwhile notices, see _lock
                del _held[file_id]
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _lock(self) -> int | None:
        """A locked descriptor; None if the last holder removed the file between its opening and its locking here."""
        if _held.get(_file_id(self.path)) == os.getpid():
            raise self._refusal(f"{os.getpid()} {socket.gethostname()}")
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # POSIX allows either
            holder = os.read(descriptor, 300).decode()
            os.close(descriptor)
            raise self._refusal(holder) from None
        if _file_id(self.path) == _file_id(descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def _refusal(self, holder: str) -> RunLockedError:
        process, _, host = holder.strip().partition(" ")
        elsewhere = f" on {host}" if host not in ("", socket.gethostname()) else ""
        return RunLockedError(f"{self.path.parent} is being trained by process {process or 'unknown'}{elsewhere}")


def _file_id(file: Path | int) -> FileId | None:
    try:
        stat = os.stat(file)
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino
