"""Damaged checkpoint files: whatever the damage, they load right or not at all."""

import random
import struct
import zipfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from metta.errors import CheckpointError
from metta.files import pt_file
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.exact import differences

slow = pytest.mark.slow


class Agent(nn.Module):
    """Several tensors of several sizes and kinds, one of them empty."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        self.register_buffer("mean", torch.randn(8, dtype=torch.float64))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("empty", torch.zeros(0))
        self.note = "act on me"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpointManager:
    manager = TinyCheckpointManager("a", tmp_path_factory.mktemp("damage"))
    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters())
    agent.layers(torch.ones(8)).sum().backward()
    optimizer.step()
    state = {"epoch": 1, "optimizer": optimizer.state_dict(), "episodes": [np.arange(9)], "config": {"run": "a"}}
    manager.save_checkpoint(agent, 1, state)
    return manager


def damaged(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@cache
def load_once(file: Path) -> Any:
    return pt_file.load(file)


def refused(manager: TinyCheckpointManager, kind: str, content: bytes, folder: Path) -> bool:
    """Whether the file with this content is refused. It fails if the file loads as anything but the original."""
    original = load_once(manager.file(kind, 1))
    file = folder / "damaged.pt"
    file.write_bytes(content)
    try:
        loaded = pt_file.load(file)
    except CheckpointError as error:
        assert str(error).startswith(f"{file} ") and "\n" not in str(error)
        return True
    assert differences(loaded, original) == []
    assert kind == "trainer" or loaded.note == original.note
    return False


@pytest.mark.parametrize("kind", ["agent", "trainer"])
@pytest.mark.parametrize("flips", [200, pytest.param(2000, marks=slow)])
def test_flipped_bits(originals: TinyCheckpointManager, kind: str, flips: int, tmp_path: Path) -> None:
    """Prevents wrong weights from loading without a word, as torch.load does with 99 of 100 flipped bits."""
    content = originals.file(kind, 1).read_bytes()
    bits = random.Random(flips).sample(range(8 * len(content)), flips)
    count = sum(refused(originals, kind, damaged(content, bit), tmp_path) for bit in bits)
    print(f"{kind} file, {flips} bits flipped: {count} refused, {flips - count} loaded with all content right")
    assert count > 0


class Entry(NamedTuple):
    name: str
    offset: int
    size: int


def entries(file: Path) -> list[Entry]:
    """Where the content of each entry lies that is not empty."""
    content = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        found = [info for info in archive.infolist() if info.file_size > 0]
    lengths = [sum(struct.unpack_from("<HH", content, info.header_offset + 26)) for info in found]
    return [Entry(i.filename, i.header_offset + 30 + n, i.file_size) for i, n in zip(found, lengths, strict=True)]


@pytest.mark.parametrize("kind", ["agent", "trainer"])
def test_every_flip_in_an_entry_is_refused(originals: TinyCheckpointManager, kind: str, tmp_path: Path) -> None:
    """Prevents a check that looks at some of the entries only, or not at their first and last bytes."""
    content = originals.file(kind, 1).read_bytes()
    found = entries(originals.file(kind, 1))
    assert len([entry for entry in found if "/data/" in entry.name]) >= 6
    for entry in found:
        for byte in (entry.offset, entry.offset + entry.size // 2, entry.offset + entry.size - 1):
            assert refused(originals, kind, damaged(content, 8 * byte + 5), tmp_path), entry


@pytest.mark.parametrize("kind", ["agent", "trainer"])
@pytest.mark.parametrize("every", [50, pytest.param(1, marks=slow)])
def test_flips_in_the_metadata(originals: TinyCheckpointManager, kind: str, every: int, tmp_path: Path) -> None:
    """Prevents a flip in the zip's headers or directory from leading torch to other bytes than those checked."""
    content = originals.file(kind, 1).read_bytes()
    inside = {
        byte for entry in entries(originals.file(kind, 1)) for byte in range(entry.offset, entry.offset + entry.size)
    }
    bits = [bit for bit in range(8 * len(content)) if bit // 8 not in inside][::every]
    count = sum(refused(originals, kind, damaged(content, bit), tmp_path) for bit in bits)
    print(f"{kind} file, {len(bits)} bits of its metadata flipped one by one: {count} refused, the others loaded right")


@pytest.mark.parametrize("kind", ["agent", "trainer"])
def test_misleading_metadata(originals: TinyCheckpointManager, kind: str, tmp_path: Path) -> None:
    """Prevents three flips that were seen to load wrong weights with every CRC right.

    One moves an entry onto another, one has torch take an entry for a folder and read nothing, one has it inflate.
    """
    content = originals.file(kind, 1).read_bytes()
    local = [at for at in range(len(content)) if content.startswith(b"PK\3\4", at)]
    central = [at for at in range(len(content)) if content.startswith(b"PK\1\2", at)]
    assert len(local) == len(central) > 8
    bits = [8 * (at + 28) + bit for at in local for bit in range(16)]
    bits += [8 * (at + 38) + 4 for at in central] + [8 * (at + 10) + 3 for at in central]
    assert sum(refused(originals, kind, damaged(content, bit), tmp_path) for bit in bits) > 0.9 * len(bits)


@pytest.mark.parametrize("kind", ["agent", "trainer"])
@pytest.mark.parametrize("cuts", [50, pytest.param(200, marks=slow)])
def test_truncations(originals: TinyCheckpointManager, kind: str, cuts: int, tmp_path: Path) -> None:
    """Prevents the four kinds of exceptions that torch raises for a file cut short from reaching anybody."""
    content = originals.file(kind, 1).read_bytes()
    lengths = [0, 1, 3, 4, 30, len(content) - 1, *random.Random(cuts).sample(range(len(content)), cuts - 6)]
    assert all(refused(originals, kind, content[:length], tmp_path) for length in lengths)


def test_other_damage(originals: TinyCheckpointManager, tmp_path: Path) -> None:
    """Prevents files that are no checkpoints at all from ending in a traceback."""
    content = originals.file("agent", 1).read_bytes()
    half = len(content) // 2
    for other in (bytes(len(content)), b"hello", content[half:], content[:half] + bytes(len(content) - half)):
        assert refused(originals, "agent", other, tmp_path)
    torch.save(Agent(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert refused(originals, "agent", (tmp_path / "old.pt").read_bytes(), tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read: IsADirectoryError"):
        pt_file.load(tmp_path)


@pytest.mark.parametrize("kind", ["agent", "trainer"])
def test_check_and_load_agree(originals: TinyCheckpointManager, kind: str, tmp_path: Path) -> None:
    """Prevents retention, which checks without loading, from keeping what cannot be loaded."""
    content = originals.file(kind, 1).read_bytes()
    pair = {other: originals.file(other, 1) for other in ("agent", "trainer")}
    pt_file.check_pair(**{f"{other}_file": path for other, path in pair.items()})
    file = pair[kind] = tmp_path / "damaged.pt"
    for bit in random.Random(1).sample(range(8 * len(content)), 100):
        if refused(originals, kind, damaged(content, bit), tmp_path):
            with pytest.raises(CheckpointError) as error:
                pt_file.check_pair(pair["agent"], pair["trainer"])
            assert str(error.value).startswith(f"{file} ")


@pytest.mark.parametrize("kind", ["agent", "trainer"])
@pytest.mark.parametrize("cases", [200, pytest.param(3000, marks=slow)])
def test_several_flips_in_the_metadata(originals: TinyCheckpointManager, kind: str, cases: int, tmp_path: Path) -> None:
    """Prevents two or three flips that agree with each other from doing what one cannot."""
    content = originals.file(kind, 1).read_bytes()
    found = entries(originals.file(kind, 1))
    inside = {byte for entry in found for byte in range(entry.offset, entry.offset + entry.size)}
    outside = [byte for byte in range(len(content)) if byte not in inside]
    rng = random.Random(cases)
    for _ in range(cases):
        start = rng.randrange(len(outside))
        changed = content
        for _ in range(rng.choice([2, 3])):
            changed = damaged(changed, 8 * outside[(start + rng.randrange(60)) % len(outside)] + rng.randrange(8))
        refused(originals, kind, changed, tmp_path)


@pytest.mark.parametrize("answer", ["another place", "another size"])
def test_what_torch_would_read_is_what_is_checked(
    originals: TinyCheckpointManager, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents a torch that looks for entries in another way from reading bytes that were not checked."""
    reader: Any = torch._C.PyTorchFileReader
    monkeypatch.setattr(
        torch._C,
        "PyTorchFileReader",
        type(
            "Other",
            (reader,),
            {"get_record_offset": lambda self, name: reader.get_record_offset(self, name) + 64}
            if answer == "another place"
            else {"get_record_size": lambda self, name: reader.get_record_size(self, name) + 1},
        ),
    )
    with pytest.raises(CheckpointError, match="is damaged: entry .*archive/"):
        pt_file.load(originals.file("agent", 1))
