"""Reads what torch.save wrote as inert data: nothing that the file names is imported, made or called.

An object comes out as a Record, a tensor as a StoredTensor. The cost of reading follows from the bytes that are read,
never from the numbers in them: torch.load(weights_only=True) makes nn.Linear(10**6, 10**6) where a file asks for it.
"""

import io
import pickle
import pickletools
import re
import struct
import zipfile
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

from metta.errors import MettaError

MAX_INDEX_BYTES = 1 << 18  # of the list of zip entries, and of the pickle: an agent has some 10 KB of each
CHUNK_BYTES = 1 << 20
ENTRY = re.compile(r"[^/]+/(data\.pkl|data/\w+|byteorder|version|\.\w+|\.data/serialization_id)")
DTYPES = {
    "torch.FloatStorage": torch.float32, "torch.DoubleStorage": torch.float64,
    "torch.IntStorage": torch.int32, "torch.LongStorage": torch.int64,
}  # fmt: skip
SKELETON = "cloudpickle.cloudpickle._make_skeleton_class"  # begins a class that is saved by value
NAMES = {"collections.OrderedDict", "builtins.set", "builtins.type", SKELETON, *DTYPES}
INSTRUCTIONS = {ord(op.code): op.name for op in pickletools.opcodes}
PLAIN = {  # those that put plain data together, and nothing else
    "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "GLOBAL",
    "BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
}  # fmt: skip


class Refused(MettaError):
    """The file has something that no agent of metta's own has; the text says what."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function, never looked up."""

    name: str


@dataclass(eq=False, slots=True)
class Record:
    """An object: the name of its class, and its attributes."""

    cls: str
    state: dict[str, Any] | None = None


@dataclass(eq=False, slots=True)
class Storage:
    dtype: torch.dtype
    key: Any
    count: Any  # of its numbers


@dataclass(eq=False, slots=True)
class StoredTensor:
    """A tensor whose numbers are still in the file. Nothing here is checked yet."""

    storage: Storage
    offset: Any
    size: Any
    stride: Any
    hooks: list[dict[str, Any]]


def describe(value: Any) -> str:
    if isinstance(value, Name | Record):
        return value.name if isinstance(value, Name) else f"an object of {value.cls}"
    return "a tensor" if isinstance(value, StoredTensor) else f"a value of type {type(value).__name__}"


class Instructions(dict[int, Any]):
    def __missing__(self, code: int) -> Any:
        raise Refused(f"pickle instruction {INSTRUCTIONS[code]}, which torch.save never writes,")


PythonUnpickler: Any = pickle._Unpickler


class InertUnpickler(PythonUnpickler):
    """The standard library's unpickler in Python, less whatever imports, makes, calls or changes anything."""

    dispatch = Instructions({c: PythonUnpickler.dispatch[c] for c, name in INSTRUCTIONS.items() if name in PLAIN})

    def find_class(self, module: str, name: str) -> Name:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.")
        if full not in NAMES and not full.startswith(("metta.", "torch.nn.", "torch._utils._rebuild")):
            raise Refused(f"global {full}")
        return Name(full)

    def persistent_load(self, parts: Any) -> Storage:
        match parts:
            case ("storage", Name(kind), key, _, count) if kind in DTYPES:
                return Storage(DTYPES[kind], key, count)
        raise Refused("a storage of a kind that no agent has")

    def protocol(self) -> None:
        if (version := self.read(1)[0]) != 2:
            raise Refused(f"pickle protocol {version}, where torch.save writes 2,")

    def new_object(self) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        if not isinstance(cls, Name) or arguments != ():
            raise Refused(f"arguments to {describe(cls)}")
        self.stack.append(Record(cls.name))

    def build(self) -> None:
        state, record = self.stack.pop(), self.stack[-1]
        if not isinstance(record, Record) or record.state is not None or type(state) is not dict:
            raise Refused(f"attributes given to {describe(record)}")
        record.state = state

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        match function, arguments:
            case Name("collections.OrderedDict"), ():
                self.stack.append({})
            case Name("builtins.set"), ([*names],) if all(type(name) is str for name in names):
                self.stack.append(set(names))
            case Name("torch._utils._rebuild_tensor_v2"), (Storage() as storage, offset, size, stride, _, dict(hooks)):
                self.stack.append(StoredTensor(storage, offset, size, stride, [hooks]))
            case Name("torch._utils._rebuild_parameter"), (StoredTensor() as tensor, _, dict(hooks)):
                tensor.hooks.append(hooks)
                self.stack.append(tensor)
            case Name(name), (_, str(cls), *_) if name == SKELETON:
                raise Refused(f"an agent of class {cls}, which comes with the file and is not metta's own,")
            case _:
                raise Refused(f"a call of {describe(function)}")

    def set_items(self, items: list[Any] | None = None) -> None:
        items = self.pop_mark() if items is None else items
        # Numbers only where each has a hash of its own: thousands of equal ones take a dictionary minutes.
        names = all(type(key) is str or (type(key) is int and 0 <= key < 1 << 31) for key in items[::2])
        if type(self.stack[-1]) is not dict or not names:
            raise Refused(f"an item set in {describe(self.stack[-1])}")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def set_item(self) -> None:
        self.set_items([self.stack.pop(), self.stack.pop()][::-1])

    dispatch |= {0x80: protocol, 0x81: new_object, ord("b"): build, ord("R"): call}
    dispatch |= {ord("s"): set_item, ord("u"): set_items}


class InertFile:
    """A zip as torch.save writes it, open for reading. Whatever is read has its CRC checked."""

    def __init__(self, file: IO[bytes]):
        self.size = check_end(file)
        self._archive = zipfile.ZipFile(file)
        self._entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._archive.infolist():
            name, packed = ENTRY.fullmatch(entry.filename), entry.compress_type != zipfile.ZIP_STORED
            if name is None or name[1] in self._entries or packed or entry.flag_bits & 1:
                raise Refused(f"zip entry {entry.filename[:80]!r}, packed, doubled or unlike any of torch.save's,")
            self._entries[name[1]] = entry
        if sum(entry.file_size for entry in self._entries.values()) > self.size:
            raise Refused("zip entries larger than the file")
        if min(entry.header_offset for entry in self._entries.values()) > 0:
            raise Refused("bytes before the first zip entry")
        if self._read("byteorder") != b"little":
            raise Refused("numbers in another byte order")
        self._storages: dict[str, bytearray] = {}

    def unpickled(self) -> Any:
        if self._entries["data.pkl"].file_size > MAX_INDEX_BYTES:
            raise Refused(f"a pickle of {self._entries['data.pkl'].file_size} bytes")
        content = io.BytesIO(self._read("data.pkl"))
        unpickler = InertUnpickler(content)
        found = unpickler.load()
        if unpickler.stack or unpickler.metastack or content.read(1):
            raise Refused("more than one object in the pickle")
        return found

    def tensor(self, stored: StoredTensor) -> Tensor:
        """The tensor, its numbers from the file; torch raises where it reaches beyond its storage."""
        storage = stored.storage
        if storage.key not in self._storages:
            self._storages[storage.key] = self._read(f"data/{storage.key}")
        content = self._storages[storage.key]
        if storage.count != len(content) // storage.dtype.itemsize:
            raise Refused(f"a storage of {storage.count} numbers, where the file has {len(content)} bytes")
        return torch.frombuffer(content, dtype=storage.dtype).as_strided(stored.size, stored.stride, stored.offset)

    def _read(self, name: str) -> bytearray:
        content = bytearray(self._entries[name].file_size)
        with self._archive.open(self._entries[name]) as stream:
            for start in range(0, len(content), CHUNK_BYTES):
                content[start : start + CHUNK_BYTES] = stream.read(CHUNK_BYTES)
        return content


def check_end(file: IO[bytes]) -> int:
    """Return the file's size. It must end as torch's zips do, without a comment, and its list of entries be short."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 98))
    end = file.read()  # zip64's record (56 bytes) and locator (20), the end record (22)
    if len(end) < 98 or end[76:80] != b"PK\5\6":
        raise ValueError("it does not end as torch.save's files do")
    index = struct.unpack("<I", end[88:92])[0]
    if end[:4] == b"PK\6\6":
        index = max(index, struct.unpack("<Q", end[40:48])[0])
    if index > MAX_INDEX_BYTES:
        raise Refused(f"a list of zip entries of {index} bytes")
    return size
