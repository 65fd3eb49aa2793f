"""A checkpoint's .pt files: written whole or not at all, and read only if every byte of content is the one written.

A .pt file is a zip of uncompressed entries, each with a CRC that torch writes and never checks. Here the CRCs are
checked on the bytes that torch.load has just read, so the file is read once. zlib-ng's crc32 is 6 times as fast as the
standard library's (24 against 4 GB/s on one core), with which loading 1 GB took 1.5 times as long as torch.load alone
instead of 1.1 times. torch is imported only to load or to save.
"""

from __future__ import annotations

import fcntl
import io
import os
import struct
import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from zlib_ng.zlib_ng import crc32

from metta.errors import CheckpointError, one_line

if TYPE_CHECKING:
    from torch.nn import Module as Agent
else:
    Agent = Any
Folder = str | Path

CHUNK_BYTES = 256 * 1024  # the CRC of a chunk is taken while it is still in the core's own cache
WRITEBACK_BYTES = 8 * 1024 * 1024
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip entry: signature, bytes of the name, bytes of the extra field
LOCAL_SIGNATURE = b"PK\3\4"
UTF8_NAME, SIZES_LATER = 0x800, 0x8  # the flag bits that torch sets
DESCRIPTOR_SIGNATURE, DIRECTORY_SIGNATURE = b"PK\7\x08", b"PK\1\2"
DIRECTORY_HEADER = struct.Struct("<28xHHH12x")  # of an entry: bytes of the name, the extra field and the comment


class UnsoundError(CheckpointError):
    """Its files are at fault: damaged or incomplete. An older checkpoint may be sound."""


class Entry(NamedTuple):
    name: str
    offset: int
    size: int
    crc: int


class CheckedReader(io.RawIOBase):
    """A .pt file for torch, which reads each entry with one `readinto`: its CRC is checked there and then."""

    def __init__(self, file: io.FileIO):
        self.file = file
        self.unread = _entries(file)
        self.damage: UnsoundError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        entry = self.unread.get(self.file.tell())
        if entry is None or entry.size != len(buffer):
            return self.file.readinto(buffer)
        view = memoryview(buffer)
        self._check(entry, (view[start : start + CHUNK_BYTES] for start in range(0, entry.size, CHUNK_BYTES)))
        del self.unread[entry.offset]
        return entry.size

    def require_all_read(self) -> None:
        """UnsoundError unless torch has read each entry whole and at its place, and so checked it."""
        if self.unread:
            entry = next(iter(self.unread.values()))
            raise UnsoundError(f"{self.file.name} is damaged: entry {entry.name} is not where torch looks for it")

    def read_all(self) -> None:
        """Reads each entry to nowhere."""
        scratch = memoryview(bytearray(CHUNK_BYTES))
        for entry in self.unread.values():
            self.file.seek(entry.offset)
            self._check(entry, (scratch[: entry.size - start] for start in range(0, entry.size, CHUNK_BYTES)))
        self.unread = {}

    def _check(self, entry: Entry, chunks: Iterable[memoryview]) -> None:
        """Reads the entry at whose start the file stands into `chunks`, and checks its CRC."""
        crc = 0
        for chunk in chunks:
            while chunk and (count := self.file.readinto(chunk)):
                crc = crc32(chunk[:count], crc)
                chunk = chunk[count:]
        if crc != entry.crc:
            self.damage = UnsoundError(f"{self.file.name} is damaged: entry {entry.name} has the wrong CRC")
            raise self.damage  # which torch may report in words of its own


def load(path: Path, map_location: Any = "cpu") -> Any:
    """What was saved to `path`. CheckpointError, in one line, whatever is wrong."""
    import torch

    with _reading(path) as reader:
        return torch.load(reader, map_location=map_location, weights_only=False)


def check(path: Path) -> None:
    """Reads all of `path`, as `load` does, but makes nothing of it. UnsoundError, in one line, whatever is wrong."""
    import torch

    with _reading(path) as reader:
        torch._C.PyTorchFileReader(reader)  # has the directory read as torch.load does
        reader.read_all()


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The file, to be read by torch and by nothing else. What goes wrong with it comes out as a CheckpointError."""
    reader = None
    try:
        with open(path, "rb", buffering=0) as file:
            reader = CheckedReader(file)
            yield reader
            reader.require_all_read()
    except CheckpointError:
        raise
    except Exception as error:  # unpickling calls any code, which may raise anything
        if not path.exists():
            raise UnsoundError(f"{path} is missing: without it the agent can be evaluated, not resumed") from None
        if reader is not None and reader.damage is not None:
            raise reader.damage from None
        if isinstance(error, (ImportError, AttributeError, MemoryError)):
            raise CheckpointError(f"{path} cannot be loaded here: {one_line(error)}") from error
        raise UnsoundError(f"{path} cannot be read: {one_line(error)}") from error


def _entries(file: io.FileIO) -> dict[int, Entry]:
    """The entries of a .pt file that are not empty, by their offset. Leaves the file at its start."""
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    entries: dict[int, Entry] = {}
    for info in infos:
        file.seek(info.header_offset)
        signature, name_bytes, extra_bytes = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        name = file.read(name_bytes).decode("utf-8" if info.flag_bits & UTF8_NAME else "cp437")
        offset = info.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
        if signature != LOCAL_SIGNATURE or name != info.orig_filename or offset in entries:
            raise UnsoundError(f"{file.name} is damaged: entry {info.filename!r} is not where the directory says")
        packed = info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size
        if packed or info.flag_bits & ~(UTF8_NAME | SIZES_LATER) or info.external_attr:
            raise UnsoundError(f"{file.name} is damaged: entry {info.filename!r} is not stored as torch stores it")
        if info.file_size > 0:  # what is empty torch does not read
            entries[offset] = Entry(name, offset, info.file_size, info.CRC)
    file.seek(0)
    return entries


def save_in_order(contents: dict[Path, Any]) -> None:
    """Saves each content to its path. All are on the disk before the first gets its name; they get them in order.

    The last one's name thus tells that all are there. Raises what the file system or pickling raised, and leaves what
    was there before; only the names that come before the one that failed may be new.
    """
    with ExitStack() as stack:
        new = {path: stack.enter_context(written_beside(path, content)) for path, content in contents.items()}
        for path, temporary in new.items():
            os.replace(temporary, path)
            sync_folder(path.parent)


@contextmanager
def written_beside(path: Path, content: Any) -> Iterator[Path]:
    """A new file beside `path`, under a name that no reader takes for a checkpoint, with `content` whole and synced.

    It is for renaming over `path`; what is not renamed is removed. All through the `with` it is under a lock that dies
    with this process: `abandoned` tells it from what a killed process left.
    """
    import torch

    from metta.files import portable_pickle

    make_folder(path.parent)
    temporary = path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with _open_locked(temporary) as file:
            writer = _Writer(file)
            _torch_crcs.off()
            try:
                portable_pickle.save(content, writer)
            finally:
                _torch_crcs.on()
                if writer.error is not None:  # torch reports it in words of its own
                    raise writer.error
            if not writer.zip.whole:
                raise RuntimeError(f"torch {torch.__version__} writes files in another way than this metta knows")
            file.flush()
            os.fsync(file.fileno())
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _open_locked(path: Path) -> IO[bytes]:
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "wb"))
        fcntl.flock(file, fcntl.LOCK_EX)
        if not path.exists():  # another process took it for abandoned before it was locked
            return _open_locked(path)
        stack.pop_all()
        return file


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether the file is there and no process is still saving it; within the `with`, none begins to."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "r+b"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:  # locked, or already gone; of what cannot be opened or locked nothing is known
            free = False
        yield free


class _Writer:
    """What torch.save writes to: it puts the CRCs in, and sets the disk to work on what is written so far.

    torch takes CRCs at 1.6 GB/s, half of the time that it took to write 100 MB durably; zlib-ng does at 24. Setting the
    disk to work leaves fsync little to wait for: without it, writing 1 GB took 1.4 times as long.
    """

    def __init__(self, file: IO[bytes]):
        self.file, self.started, self.written = file, 0, 0
        self.error: OSError | None = None
        self.zip = _ZipWithCrcs()

    def write(self, data: Any) -> int:
        _torch_crcs.on()
        try:
            for piece in self.zip.pieces(memoryview(data).cast("B")):
                self.file.write(piece)
                self.written += len(piece)
                if self.written - self.started >= WRITEBACK_BYTES and hasattr(os, "posix_fadvise"):
                    self._start()
        except OSError as error:
            self.error = error
            raise
        return len(data)

    def _start(self) -> None:
        self.file.flush()
        # On Linux this begins to write the dirty pages, without waiting; only clean ones leave the page cache.
        os.posix_fadvise(self.file.fileno(), self.started, self.written - self.started, os.POSIX_FADV_DONTNEED)
        self.started = self.written

    def flush(self) -> None:
        self.file.flush()


class _ZipWithCrcs:
    """A zip as torch writes it, part by part, with each content's CRC put in where the zip has it.

    An entry is its local header, name and extra field, content, and a descriptor with the CRC; one without content ends
    with the extra field. Then comes the directory, with every CRC again.
    """

    def __init__(self) -> None:
        self.whole = False  # whether the directory came, and listed the entries that came before
        self._crcs: list[int] = []  # of the entries, in order
        self._names_left = 0  # bytes of this entry's name and extra field still to come
        self._content_next = False

    def pieces(self, part: memoryview) -> Iterator[memoryview]:
        """What to write in place of `part`."""
        if self._names_left > 0:
            self._names_left -= len(part)
            yield part
        elif self._content_next:
            self._content_next = False
            for start in range(0, len(part), CHUNK_BYTES):
                chunk = part[start : start + CHUNK_BYTES]
                self._crcs[-1] = crc32(chunk, self._crcs[-1])
                yield chunk  # to be written while it is still in the core's cache
        elif part[:4] == LOCAL_SIGNATURE and len(part) == LOCAL_HEADER.size:
            flags = struct.unpack_from("<H", part, 6)[0]
            self._names_left = sum(LOCAL_HEADER.unpack(part)[1:])
            self._content_next = bool(flags & SIZES_LATER)
            self._crcs.append(0)
            yield part
        elif part[:4] == DESCRIPTOR_SIGNATURE:
            yield self._patched(part, [(4, self._crcs[-1])])
        elif part[:4] == DIRECTORY_SIGNATURE:
            yield self._patched(part, list(self._directory_crcs(part)))
        else:  # the ends of the directory
            yield part

    def _directory_crcs(self, directory: memoryview) -> Iterator[tuple[int, int]]:
        place = 0
        for crc in self._crcs:
            yield place + 16, crc
            place += DIRECTORY_HEADER.size + sum(DIRECTORY_HEADER.unpack_from(directory, place))
        self.whole = place == len(directory)

    @staticmethod
    def _patched(part: memoryview, crcs: list[tuple[int, int]]) -> memoryview:
        patched = bytearray(part)
        for place, crc in crcs:
            struct.pack_into("<I", patched, place, crc)
        return memoryview(patched)


class _TorchCrcs:
    """Keeps torch.save from taking CRCs from the `off` of a thread to its first write, when torch has read the option.

    The option is the whole process's: a save of somebody else's that begins in between, while this one pickles, writes
    a file that torch loads and unzip complains of.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._off_by: int | None = None

    def off(self) -> None:
        from torch import serialization

        self._lock.acquire()
        self._off_by, self._were = threading.get_ident(), serialization.get_crc32_options()
        serialization.set_crc32_options(False)

    def on(self) -> None:
        """As they were before this thread's `off`."""
        if self._off_by == threading.get_ident():
            from torch import serialization

            serialization.set_crc32_options(self._were)
            self._off_by = None
            self._lock.release()


_torch_crcs = _TorchCrcs()


def make_folder(folder: Path) -> None:
    """Makes `folder` and what is missing above it, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable, as they are now."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
