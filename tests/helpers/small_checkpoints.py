"""Small checkpoints for the tests of saving and loading: the agent and the state of an epoch follow from its number."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.exact import differences


class Agent(nn.Module):
    mean: torch.Tensor

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.body = nn.Linear(6, 4)
        self.head = nn.Linear(4, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.tied = self.head.weight
        self.register_buffer("mean", torch.randn(6, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x - self.mean))


class Large(Agent):
    """Half a megabyte, all of it the seed."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.ballast = torch.full((2**17,), float(seed))


def state_of(epoch: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(epoch)
    return {
        "epoch": epoch,
        "agent_steps": 100 * epoch,
        "config": {"run": "a", "lr": 1e-3},
        "optimizer": {"state": {0: {"exp_avg": torch.rand(30, generator=generator)}}},
        "observations": np.arange(6) + epoch,
    }


def save(manager: TinyCheckpointManager, *epochs: int) -> None:
    for epoch in epochs:
        manager.save_checkpoint(Agent(epoch), epoch, state_of(epoch))


def assert_latest(manager: TinyCheckpointManager, epoch: int) -> None:
    """The newest sound pair is that of `epoch`, in every bit."""
    found = manager.load_latest()
    assert found is not None and found[0] == epoch
    assert differences(found[1], Agent(epoch)) == []
    assert differences(found[2], state_of(epoch)) == []


def flip(file: Path) -> None:
    """Flips a bit of the file's largest tensor."""
    with zipfile.ZipFile(file) as archive:
        entry = max((info for info in archive.infolist() if "/data/" in info.filename), key=lambda info: info.file_size)
    content = bytearray(file.read_bytes())
    name_bytes, extra_bytes = struct.unpack_from("<HH", content, entry.header_offset + 26)
    content[entry.header_offset + 30 + name_bytes + extra_bytes + entry.file_size // 2] ^= 4
    file.write_bytes(content)
