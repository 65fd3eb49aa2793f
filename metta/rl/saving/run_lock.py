"""One trainer for each run: an advisory lock on a file in its folder that dies with its process, whatever killed it.

The lock is the open file's, not the process's (F_OFD_SETLK): it is refused to a second holder in the same process too,
and stays when something else there opens and closes the file, as copying the run's folder does. A forked process closes
what it inherits, so none outlives the trainer with the lock held.
"""

import fcntl
import io
import os
import struct
from pathlib import Path

from metta.errors import RunLockedError
from metta.files.durable import make_folder


class RunLock:
    """Holds a run from `acquire` to `release`, or within a `with`, by its lock file (its folder is made if missing).

    RunLockedError if it is held already, be it in this process, or where the file system has no locks.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: io.FileIO | None = None

    def acquire(self) -> "RunLock":
        make_folder(self.path.parent)
        while not self._is_at_its_place(file := self._open_locked()):
            file.close()  # the last holder removed it between its opening and its locking here
        os.register_at_fork(after_in_child=file.close)
        file.truncate(0)
        file.write(f"{os.getpid()} {os.uname().nodename}\n".encode())
        self._file = file
        return self

    def check(self) -> None:
        """RunLockedError where the lock file is gone, or another's: its folder may be another run by now."""
        if self._file is None or not self._is_at_its_place(self._file):
            raise RunLockedError(f"{self.path} is gone, or another trainer's, so this one does not save there")

    def release(self, *exception: object) -> None:
        """Give the run back and remove the lock file. Does nothing where it is not held, as in a forked process."""
        if self._file is not None and not self._file.closed:
            if self._is_at_its_place(self._file):
                self.path.unlink()  # while locked: who has opened it meanwhile notices, see acquire
            self._file.close()

    __enter__, __exit__ = acquire, release

    def _open_locked(self) -> io.FileIO:
        file = io.FileIO(self.path, "a+")
        try:
            # C's struct flock: type, whence, start, length, process
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhlli0l", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            return file
        except OSError as error:
            holder = os.pread(file.fileno(), 300, 0).decode().removesuffix(f" {os.uname().nodename}\n")
            file.close()
            by = f"is being trained by process {' on '.join(holder.split()) or '?'}"
            # POSIX allows either error where it is held.
            why = by if isinstance(error, BlockingIOError | PermissionError) else f"cannot be locked: {error.strerror}"
            raise RunLockedError(f"{self.path.parent} {why}") from None

    def _is_at_its_place(self, file: io.FileIO) -> bool:
        return self.path.exists() and os.path.samestat(os.fstat(file.fileno()), self.path.stat())
