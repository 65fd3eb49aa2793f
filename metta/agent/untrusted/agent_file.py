"""Loading an agent file that came from elsewhere, without letting its author run code or fill the memory here.

A file of one's own train_dir is loaded by TinyCheckpointManager, which trusts it.
"""

import functools
import importlib
import pkgutil
import re
import struct
import zipfile
from pathlib import Path
from typing import IO

import torch
from torch import nn

import metta.agent
from metta.agent.untrusted.pickle_inspection import Inspection, Refused
from metta.envs.env_spec import EnvSpec, TokenSpec
from metta.errors import CheckpointError, one_line

MAX_INDEX_BYTES = 1 << 20  # of the list of entries, and of the pickle: an agent has some 10 KB of each
ENTRY = re.compile(
    r"[^/]+/(data\.pkl|data/([0-9]+)|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id)"
)
MAX_QUOTED = 200  # characters of an error: it may quote anything from the file
BEGIN, END, END64 = b"PK\3\4", b"PK\5\6", b"PK\6\6"


def load_agent_file(path: str | Path, trust: bool = False, map_location: str | torch.device = "cpu") -> nn.Module:
    """The agent in a file that torch.save wrote. CheckpointError, in one line, for everything else.

    Without `trust`, the file may hold metta's agents and torch.nn's modules only; it cannot run code, and takes little
    more memory than its size. With `trust`, its author's code runs.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file" if path.exists() else f"no file {path}")
    try:
        with open(path, "rb") as file:
            return load_trusted(file, str(map_location)) if trust else load_inspected(file, str(map_location))
    except Refused as refused:
        why = one_line(refused)[:MAX_QUOTED]
        raise CheckpointError(
            f"refused: {why} in {path} (trust=true loads it anyway: do that only if you trust its author)"
        ) from None
    except Exception as error:  # torch's code over any bytes and, with trust, the author's: it may raise anything
        what = "cannot be loaded" if trust else "is no agent file, or damaged"
        raise CheckpointError(f"{path} {what} ({one_line(error)[:MAX_QUOTED]})") from error


def load_trusted(file: IO[bytes], map_location: str) -> nn.Module:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            check_crcs(archive)
    file.seek(0)
    agent = torch.load(file, map_location=map_location, weights_only=False)
    if not isinstance(agent, nn.Module):
        raise TypeError(f"it holds a {type(agent).__name__} where an agent (an nn.Module) should be")
    return agent


def load_inspected(file: IO[bytes], map_location: str) -> nn.Module:
    """First the zip and the pickle are inspected, then torch's own restricted loader reads the same open file."""
    pickle, sizes = read_entries(file)
    inspection = Inspection(allowed_classes(), sizes)
    inspection.run(pickle)
    file.seek(0)
    with torch.serialization.safe_globals([inspection.classes[name] for name in inspection.used]):
        agent = torch.load(file, map_location=map_location, weights_only=True, mmap=False)
    check_loaded(agent)
    return agent


def read_entries(file: IO[bytes]) -> tuple[bytes, dict[str, int]]:
    """The pickle, and the bytes of each storage, of a zip exactly as torch.save writes it, its CRCs checked."""
    size = check_ends(file)
    with zipfile.ZipFile(file) as archive:
        found = {}
        for entry in archive.infolist():
            name = ENTRY.fullmatch(entry.filename)
            if name is None:
                raise Refused(f"zip entry {entry.filename[:80]!r}, which torch.save never writes,")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise Refused(f"compressed or encrypted zip entry {entry.filename[:80]!r}")
            if name[1] in found:
                raise Refused(f"a second zip entry {name[1]}")
            found[name[1]] = entry
        if sum(entry.file_size for entry in found.values()) > size:
            raise Refused("zip entries larger than the file")
        if "data.pkl" not in found or min(entry.header_offset for entry in found.values()) != 0:
            raise ValueError("no data.pkl, or something before it")
        if found["data.pkl"].file_size > MAX_INDEX_BYTES:
            raise Refused(f"a pickle of {found['data.pkl'].file_size} bytes")
        check_crcs(archive)
        sizes = {name[5:]: entry.file_size for name, entry in found.items() if name.startswith("data/")}
        return archive.read(found["data.pkl"]), sizes


def check_ends(file: IO[bytes]) -> int:
    """The file's size. It must begin and end as a zip does, with nothing around, and its list of entries be short."""
    size = file.seek(0, 2)
    file.seek(0)
    begin = file.read(len(BEGIN))
    file.seek(max(0, size - 98))
    end = file.read()  # of zip64's record (56 bytes), its locator (20), the end record (22)
    if begin != BEGIN or len(end) < 98 or end[76:80] != END:
        raise ValueError("it does not begin and end as torch.save's files do")
    index = struct.unpack("<I", end[88:92])[0]
    if end[:4] == END64:
        index = max(index, struct.unpack("<Q", end[40:48])[0])
    if index > MAX_INDEX_BYTES:
        raise Refused(f"a list of zip entries of {index} bytes")
    return size


def check_crcs(archive: zipfile.ZipFile) -> None:
    """torch reads flipped bits without a word; the zip's CRCs tell."""
    damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} does not match its CRC")


def check_loaded(agent: nn.Module) -> None:
    """Refused if, despite all, something that runs by itself came with it."""
    for module in agent.modules():
        for key, value in vars(module).items():
            if "hook" in key and value:
                raise Refused(f"hooks on {type(module).__name__} ({key})")
    for name, tensor in [*agent.named_parameters(), *agent.named_buffers()]:
        if tensor._backward_hooks:
            raise Refused(f"hooks on {name}")


@functools.cache
def allowed_classes() -> dict[str, type]:
    """By dotted name: torch.nn's modules, what agents of metta.agent are made of, and what describes environments."""
    modules = pkgutil.iter_modules(metta.agent.__path__)
    names = [m.name for m in modules if not m.ispkg and not m.name.startswith("agent_")]
    classes = [EnvSpec, TokenSpec, *(cls for name in names for cls in classes_of(f"metta.agent.{name}"))]
    for module in pkgutil.iter_modules(nn.modules.__path__):
        classes += [cls for cls in classes_of(f"torch.nn.modules.{module.name}") if issubclass(cls, nn.Module)]
    return {f"{cls.__module__}.{cls.__qualname__}": cls for cls in classes}


def classes_of(module: str) -> list[type]:
    """The classes that a module defines, of which objects can be attributes: no errors, no autograd functions."""
    values = vars(importlib.import_module(module)).values()
    classes = [value for value in values if isinstance(value, type) and value.__module__ == module]
    return [cls for cls in classes if not issubclass(cls, BaseException | torch.autograd.Function)]
