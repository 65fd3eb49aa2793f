"""A checkpoint's two .pt files, saved as a pair and loaded only if every byte is the one that this save wrote.

A .pt file is a zip of uncompressed entries, each with a CRC that torch writes and never checks: of 2,000 flipped bits,
torch.load took 1,979 for wrong weights without a word. torch is imported only to load or to save.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from metta.errors import CheckpointError, UnsoundError, one_line
from metta.files.durable import rename_over, sync_folder, written_beside

AGENT_CRC = "agent_crc"  # in a trainer file: the fingerprint of the agent file of the same save


def save_pair(agent_file: Path, trainer_file: Path, agent: Any, trainer_state: dict[str, Any]) -> None:
    """Save both, or raise what the file system or pickling raised and leave what was there before.

    Both are on the disk before either gets its name, and the agent file gets it last: its presence commits the pair.
    Over an older pair the trainer file's new name commits it, see `load_pair`.
    """
    from metta.files.portable_pickle import save

    try:
        with written_beside(agent_file, lambda file: save(agent, file)) as new_agent:
            new_state = {**trainer_state, AGENT_CRC: fingerprint(new_agent)}
            with written_beside(trainer_file, lambda file: save(new_state, file)) as new_trainer:
                new_trainer.replace(trainer_file)
        sync_folder(trainer_file.parent)
        rename_over(new_agent, agent_file)
    except zipfile.BadZipFile as error:
        raise OSError(f"{agent_file} cannot be read back: {error}") from error
    except FileNotFoundError as error:
        if not str(error.filename).endswith(".tmp"):
            raise
        save_pair(agent_file, trainer_file, agent, trainer_state)  # a trainer that began took it for a dead process's


def load_pair(agent_file: Path, trainer_file: Path, map_location: Any = "cpu") -> tuple[Any, dict[str, Any]]:
    """Load agent and trainer state. UnsoundError unless they are of one save.

    A save over an older pair that went no further than the trainer file has left its agent file under another name.
    """
    state = load(trainer_file, map_location)
    crc = state.pop(AGENT_CRC, "none")
    try:
        return load(agent_file, map_location, crc), state
    except UnsoundError:
        for new_agent in agent_file.parent.glob(f"{agent_file.name}.*.tmp"):
            with suppress(UnsoundError):
                return load(new_agent, map_location, crc), state
        raise


def load_trainer_state(agent_file: Path, trainer_file: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load the trainer state. UnsoundError also if the agent file is of another save."""
    state = load(trainer_file, map_location)
    with _checked(agent_file, state.pop(AGENT_CRC, "none"), whole=False):
        return state


def check_pair(agent_file: Path, trainer_file: Path) -> None:
    """Raise UnsoundError where `load_pair` would, but unpickle nothing, which would run the agent's code."""
    with _checked(trainer_file) as file, zipfile.ZipFile(file) as archive:
        pickled = archive.read("archive/data.pkl")
    crc = re.search(AGENT_CRC.encode() + rb".{1,10}([0-9a-f]{8})", pickled, re.DOTALL)
    with _checked(agent_file, crc[1].decode() if crc else "none"):
        pass


def load(path: Path, map_location: Any = "cpu", expected: str | None = None) -> Any:
    """Load what was saved to `path`, if its fingerprint is the `expected` one. CheckpointError, whatever is wrong.

    It is an UnsoundError if the file is at fault.
    """
    import torch

    with _checked(path, expected) as file:
        return torch.load(file, map_location=map_location, weights_only=False)


def fingerprint(file: Path | IO[bytes]) -> str:
    """Identify a .pt file's content by the CRC of its entries' CRCs, 8 hexadecimal digits."""
    with zipfile.ZipFile(file) as archive:
        entries = "".join(f"{entry.filename}:{entry.CRC};" for entry in archive.infolist())
    return f"{zlib.crc32(entries.encode()):08x}"


@contextmanager
def _checked(path: Path, expected: str | None = None, whole: bool = True) -> Iterator[io.BufferedReader]:
    """Open the file, fingerprint and content checked. What is or goes wrong with it comes out as a CheckpointError."""
    try:
        with open(path, "rb") as file:
            if whole:
                _check(file)
            if expected is not None and fingerprint(file) != expected:
                raise UnsoundError(f"{path} is of another save than its trainer file")
            file.seek(0)
            yield file
    except CheckpointError:
        raise
    except Exception as error:  # unpickling calls any code, which may raise anything
        if isinstance(error, FileNotFoundError) and not path.exists():
            lost = ": without it the agent can be evaluated, not resumed" if path.name.startswith("trainer") else ""
            raise UnsoundError(f"{path} is {'a link to nothing' if path.is_symlink() else 'missing'}{lost}") from None
        if isinstance(error, (ImportError, AttributeError, MemoryError)):
            raise CheckpointError(f"{path} cannot be loaded here: {one_line(error)}") from error
        raise UnsoundError(f"{path} cannot be read: {one_line(error)}") from error


def _check(file: io.BufferedReader) -> None:
    """Check each entry's CRC, at the place and of the size at which torch will read it.

    One flipped bit in the zip's own headers can lead torch to other bytes than zipfile, or to none: so its own reader
    is asked.
    """
    import torch

    reader: Any = torch._C.PyTorchFileReader(file)
    buffer = memoryview(bytearray(256 * 1024))  # which a core keeps in its own cache
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        for name in reader.get_all_records():
            archive.open(e := entries[name]).close()  # which reads its header
            if {e.file_size, e.compress_size} != {reader.get_record_size(name)} or e.compress_type or e.external_attr:
                raise UnsoundError(f"{file.name} is damaged: entry {e.filename!r} is not stored as torch stores it")
            file.seek(reader.get_record_offset(name))
            crc, left = 0, e.file_size
            while left > 0 and (count := file.readinto(buffer[:left])):
                crc, left = zlib.crc32(buffer[:count], crc), left - count
            if crc != e.CRC:
                raise UnsoundError(f"{file.name} is damaged: entry {e.filename} has the wrong CRC")
