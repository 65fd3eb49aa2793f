"""The table of episodes in an SQLite file on a local disk."""

import contextlib
import os
import re
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metta.eval import databases
from metta.eval.databases import APPLICATION, TABLE, URL_FORM, VERSION, Database, EvalDBError

HEADER = struct.Struct(">16s44xI4xI")  # SQLite's file header: magic, user_version at byte 60, application_id at 68
ALONE = "mode=ro&immutable=1"  # no writer is at work, and SQLite cannot make the files that it shares with one
SHARED_BYTES = 1 << 15  # of the smallest -shm, one of these files
MOUNTS = Path("/proc/self/mounts")
# File systems of several machines, whose locks and shared memory SQLite's WAL cannot rely on.
NETWORK = re.compile(
    r"nfs4?|cifs|smb\w*|afs|(fuse\.)?(ceph|glusterfs|sshfs|s3fs)|lustre|gpfs|beegfs\w*|fhgfs|panfs|pvfs2|orangefs"
)


class SQLite(Database):
    """The file, made by the first writing, in WAL mode. Each call opens and closes it, so nothing is held between them:
    no lock, no stale handle after the file was moved, nothing to break in a fork.
    """

    def __init__(self, path: Path):
        self.path = path
        self.name = str(path)
        self.exists()

    def exists(self) -> bool:
        """Whether there is a file; EvalDBError if it is not a score database that we understand. Does not touch it."""
        try:
            with open(self.path, "rb") as file:
                header = file.read(HEADER.size)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise EvalDBError(f"{self.path}: {error.strerror}") from error
        if not header:  # whoever made it was killed before it held anything
            return False
        self.check_writable()
        if len(header) < HEADER.size or not header.startswith(b"SQLite format 3\0"):
            raise EvalDBError(f"{self.path} is not a score database: move it away, or name another train_dir")
        _, version, application = HEADER.unpack(header)
        if application != APPLICATION:
            raise EvalDBError(f"{self.path} is another program's database: move it away, or name another train_dir")
        self._check_version(version)
        return True

    def check_writable(self) -> None:
        """SQLite's locks and its readers' shared memory fail between machines, at times without a word."""
        if kind := network_file_system(self.path):
            where = f"{self.path} lies on a network file system ({kind}), where SQLite loses data"
            raise EvalDBError(f"{where}: give eval_db={URL_FORM}, or eval_db= a path on a local disk")

    def _create(self) -> None:
        """Make the empty database in one transaction, before which the file has no bytes. The first one wins."""
        self.check_writable()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=databases.WAIT_S, isolation_level=None)
            with contextlib.closing(connection):
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
                    connection.execute(f"PRAGMA application_id = {APPLICATION}")
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                    connection.execute(f"{TABLE.rstrip()} WITHOUT ROWID")
                connection.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise EvalDBError(f"cannot create {self.path}: {error}") from error

    @contextlib.contextmanager
    def _transaction(self, run: str | None) -> Iterator[Any]:
        """One connection for one transaction. SQLite's errors become EvalDBError; leaving by an error rolls back."""
        if not self.exists():
            if run is None:
                yield None
                return
            self._create()
        try:
            with contextlib.closing(self._begin(run)) as connection:
                with contextlib.closing(connection.cursor()) as cursor:
                    yield cursor
                connection.execute("COMMIT")
        except (sqlite3.OperationalError, OverflowError) as error:
            raise EvalDBError(f"{self.path}: {self._said(error)}") from error
        except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
            raise  # a fault of ours, not of the file
        except sqlite3.DatabaseError as error:
            raise EvalDBError(f"{self.path} is damaged ({error}): move it away, or put back a copy") from error

    def _begin(self, run: str | None) -> sqlite3.Connection:
        """Open the file and begin; to read, also on a full disk, where no writer is at work."""
        try:
            return self._connect(self._mode(), "BEGIN" if run is None else "BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            cannot_share = error.sqlite_errorname.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN"))
            if run is None and cannot_share and self._wal_bytes() in (None, 0):
                return self._connect(ALONE, "BEGIN")
            raise

    def _mode(self) -> str:
        """Choose writing; for a file or folder that we may not write, reading alone."""
        folder_writable = os.access(self.path.parent, os.W_OK)
        if not folder_writable and self._wal_bytes() is None:
            return ALONE
        return "mode=rw" if folder_writable and os.access(self.path, os.W_OK) else "mode=ro"

    def _connect(self, mode: str, begin: str) -> sqlite3.Connection:
        uri = f"file:{quote(bytes(self.path.absolute()))}?{mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=databases.WAIT_S, isolation_level=None)
        try:
            if begin == "BEGIN IMMEDIATE":
                with contextlib.suppress(sqlite3.OperationalError):  # in use: then the next one sets it
                    connection.execute("PRAGMA journal_mode = WAL")  # which stays
            connection.execute(begin)
            self._check_version(connection.execute("PRAGMA user_version").fetchone()[0])
        except BaseException:
            connection.close()
            raise
        return connection

    def _wal_bytes(self) -> int | None:
        """Size of what may not be in the file itself yet; None where nobody has the file open."""
        try:
            return Path(f"{self.path.resolve()}-wal").stat().st_size
        except FileNotFoundError:
            return None

    def _said(self, error: Exception) -> str:
        """Say what keeps SQLite from its work, in plainer words than its own."""
        if "locked" in str(error):
            return f"another process has kept it locked for {databases.WAIT_S:.0f} s"
        full = "disk I/O" in str(error) and shutil.disk_usage(self.path.parent).free < SHARED_BYTES
        return "the disk is full" if full else str(error)


def network_file_system(path: Path) -> str | None:
    """The kind of the network file system that the path lies on, by /proc/self/mounts; None on a local one."""
    try:
        lines = MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:  # no Linux
        return None
    place, found, kind = path.absolute().resolve(), -1, ""
    for line in lines:
        _, mounted, this, *_ = line.split(" ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mounted))
        if place.is_relative_to(point) and len(point.parts) >= found:  # of equals the later one, mounted over it
            found, kind = len(point.parts), this
    return kind if NETWORK.fullmatch(kind) else None
