"""The configuration in a trainer file, without torch."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from metta.errors import CheckpointError
from metta.rl.saving import saved_config
from metta.rl.saving.saved_config import newest_config, read_saved_config
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.small_checkpoints import flip

ROOT = Path(__file__).parents[2]
CONFIG = {"run": "a", "env": "arena", "env_settings": {"max_steps": 100}, "lr": 1e-3, "lstm": False, "keep_last": None}


class Strange:
    def __init__(self) -> None:
        self.bound = self.method

    def method(self) -> None:
        pass


def write(folder: Path, **more: object) -> Path:
    """A trainer file with all the kinds of things that a trainer has."""
    agent = nn.LSTM(4, 5)
    optimizer = torch.optim.AdamW(agent.parameters())
    agent(torch.ones(2, 4))[0].sum().backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "generators": [torch.get_rng_state(), np.random.default_rng(3), np.random.get_state()],
        "episodes": [np.arange(5), np.array(["a", None], dtype=object), np.float64(3.5)],
        "strange": [Strange(), {1, 2}, frozenset("a"), b"bytes", bytearray(b"x"), 1j, range(3), Path("a"), print],
        "agent": agent,
        "epoch": 12,
        "agent_steps": 34_000,
        "config": CONFIG,
        **more,
    }
    manager = TinyCheckpointManager("a", folder)
    manager.save_checkpoint(agent, 12, state)
    return manager.file("trainer", 12)


def test_it_reads_the_three_items(tmp_path: Path) -> None:
    """Prevents a resumed run's keys from being compared with others than those it was trained with."""
    assert read_saved_config(write(tmp_path)) == {
        "config": CONFIG,
        "epoch": 12,
        "agent_steps": 34_000,
        "environment": None,
    }


def test_without_torch(tmp_path: Path) -> None:
    """Prevents a bad argument of a run that exists from being answered only after torch is imported."""
    code = """
import sys
from metta.rl.saving.saved_config import read_saved_config
print(read_saved_config(sys.argv[1])["config"]["env"], "torch" in sys.modules, "numpy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(write(tmp_path))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "arena False False\n"


class Hostile:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("was_here",)


def test_it_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents code in a trainer file from running before anybody has said that the file is trusted."""
    file = write(tmp_path, hostile=Hostile())
    monkeypatch.chdir(tmp_path)
    assert read_saved_config(file)["epoch"] == 12
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + bytes(100)])
def test_no_trainer_file(tmp_path: Path, content: bytes) -> None:
    """Prevents a traceback for a file that is something else."""
    (tmp_path / "trainer_epoch_1.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"trainer_epoch_1.pt cannot be read: ") as error:
        read_saved_config(tmp_path / "trainer_epoch_1.pt")
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="trainer_epoch_2.pt cannot be read: FileNotFoundError"):
        read_saved_config(tmp_path / "trainer_epoch_2.pt")


def test_a_state_without_configuration(tmp_path: Path) -> None:
    """Prevents a made-up configuration where there is none."""
    manager = TinyCheckpointManager("a", tmp_path)
    for state, lacks in (
        ({"epoch": 1}, "no config, no agent_steps"),
        ({"epoch": 1, "agent_steps": 2, "config": ["run"]}, "no config"),
        ({"epoch": 1, "agent_steps": "two", "config": {}}, "no agent_steps"),
        ([], "no config, no epoch, no agent_steps"),
    ):
        manager.folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, manager.file("trainer", 1))
        with pytest.raises(CheckpointError, match=f"trainer_epoch_1.pt is not of `metta train`: it has {lacks}$"):
            read_saved_config(manager.file("trainer", 1))


def test_a_configuration_without_what_is_needed(tmp_path: Path) -> None:
    """Prevents a KeyError of `metta runs` for a checkpoint that somebody saved with a configuration of their own."""
    file = write(tmp_path, config={"env": 7, "env_settings": {}})
    assert read_saved_config(file, "env_settings")["config"] == {"env": 7, "env_settings": {}}
    with pytest.raises(CheckpointError, match=r"it has no config\['env'\], no config\['total_timesteps'\]$"):
        read_saved_config(file, "env", "env_settings", "total_timesteps")


def test_the_newest_that_can_be_read(tmp_path: Path) -> None:
    """Prevents one damaged trainer file from hiding what a run was trained with, and the damage from being hidden."""
    manager = TinyCheckpointManager("a", tmp_path)
    assert newest_config(manager) is None
    for epoch in (1, 2, 10, 11):
        config = {"run": f"of epoch {epoch}"} if epoch < 11 else {}
        state = {"config": config, "epoch": epoch, "agent_steps": 0}
        manager.save_checkpoint(nn.Linear(1, 1), epoch, state)
    manager.file("trainer", 10).unlink()
    unread: list[CheckpointError] = []
    found = newest_config(manager, "run", unread=unread.append)
    assert found is not None and found["config"] == {"run": "of epoch 2"}
    assert ["epoch_11.pt" in str(unread[0]), "epoch_10.pt" in str(unread[1]), len(unread)] == [True, True, 2]
    newest = newest_config(manager)
    assert newest is not None and newest["epoch"] == 11


def test_a_small_file_does_not_take_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents `metta runs` from unpacking a few deflated kilobytes to gigabytes, or a pickle of any size."""
    file = write(tmp_path)
    deflated = tmp_path / "deflated.pt"
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with pytest.raises(CheckpointError, match=r"deflated.pt cannot be read: .* bytes of pickle, or compressed ones$"):
        read_saved_config(deflated)
    monkeypatch.setattr(saved_config, "MOST_BYTES", 1000)
    with pytest.raises(CheckpointError, match="bytes of pickle"):
        read_saved_config(file)


def test_a_number_in_the_file_does_not_choose_the_memory(tmp_path: Path) -> None:
    """Prevents 300 bytes, which call an object the 134 millionth, from taking 2 GB for a table with room for all."""
    file = tmp_path / "trainer_epoch_1.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}r" + (1 << 27).to_bytes(4, "little") + b".")
    code = "import resource, sys; from metta.rl.saving.saved_config import read_saved_config\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); read_saved_config(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], env=environment, capture_output=True, text=True, check=False
    )
    assert "is not of `metta train`: it has no config" in done.stderr


def test_damage_in_the_pickle(tmp_path: Path) -> None:
    """Prevents a flipped bit in the configuration from becoming another configuration; tensors are not its business."""
    file = write(tmp_path)
    flip(file)
    assert read_saved_config(file)["config"] == CONFIG
    content = file.read_bytes()
    at = content.index(b"agent_steps")
    for bit in range(8 * at, 8 * (at + 30)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_saved_config(file)
