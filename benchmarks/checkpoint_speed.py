"""Milliseconds to save and to load a training state: metta beside torch, torch's DCP and Orbax, interleaved.

    PYTHONPATH=. .venv-bench/bin/python benchmarks/checkpoint_speed.py [--only 4MB ...] [--rounds N] [--threads 1]

A state is an agent and Adam's two moments. `blocked`: until the call returns and training could go on; `durable`: until
it is on the disk, counted from the call; `load`: files just written, so from the page cache, into memory that is new to
the process, as that of one that begins is. Each way is tried once beforehand (those that keep memory have it then).
Before each save what was saved last is deleted, and the disk is quiet; rounds alternate between the ways.
The floors are a copy of the state into memory already touched, and a write and fsync of as many bytes. At last: finding
the newest of 50,000 checkpoints (100,000 files), beside os.listdir. Writes benchmarks/data/checkpoint_speed.json.
"""

import argparse
import ctypes
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from benchmarks.summary import WORK, conditions, spread, write
from metta.machine import keep_freed_memory
from metta.rl.saving.checkpoint_saver import CheckpointSaver
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager

SIZES = {"4MB": (4e6, 11), "100MB": (100e6, 7), "1GB": (1e9, 3)}  # bytes, rounds
LAYERS = 8
CHECKPOINTS = 50_000
Times = dict[str, float]  # "blocked", "durable", "load" -> ms


class State:
    """An agent whose parameters and two Adam moments are about `size` bytes together."""

    def __init__(self, size: float):
        width = int((size / 3 / 4 / LAYERS) ** 0.5)
        self.agent = nn.Sequential(*(nn.Linear(width, width) for _ in range(LAYERS)))
        self.optimizer = torch.optim.Adam(self.agent.parameters(), fused=True)
        for parameter in self.agent.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()
        self.agent.zero_grad()

    def trainer_state(self) -> dict[str, Any]:
        return {"config": {}, "epoch": 0, "agent_steps": 0, "optimizer": self.optimizer.state_dict()}

    def tensors(self) -> dict[str, torch.Tensor]:
        moments = self.optimizer.state_dict()["state"]
        flat = {f"{index}.{name}": tensor for index, state in moments.items() for name, tensor in state.items()}
        return {name: tensor.detach() for name, tensor in self.agent.state_dict().items()} | flat


class Metta:
    def __init__(self, state: State, folder: Path):
        self.state, self.epoch = state, 0
        self.manager = TinyCheckpointManager("run", folder)
        self.saver = CheckpointSaver(self.manager)

    def save(self) -> Callable[[], object]:
        self.epoch += 1
        self.saver.save(self.state.agent, self.epoch, self.state.trainer_state())
        return self.saver.wait

    def load(self) -> object:
        return self.manager.load_latest()


class TorchSave:
    """Plain torch.save of the same two files, which are then fsynced."""

    def __init__(self, state: State, folder: Path):
        self.state, self.paths = state, [folder / "trainer.pt", folder / "agent.pt"]

    def save(self) -> Callable[[], object]:
        for path, content in zip(self.paths, (self.state.trainer_state(), self.state.agent), strict=True):
            torch.save(content, path)
        return lambda: fsync(*self.paths)

    def load(self) -> object:
        return [torch.load(path, weights_only=False) for path in self.paths]


class DCP:
    """torch.distributed.checkpoint.async_save, its fastest form here: one stager, whose memory is kept."""

    def __init__(self, state: State, folder: Path):
        self.state, self.folder = state, folder / "dcp"
        self.stager = DefaultStager(StagingOptions(False, False, False, False))  # the rest of it is for GPUs

    def save(self) -> Callable[[], object]:
        content = self.state.tensors()
        saving: Any = dcp.async_save(content, checkpoint_id=self.folder, async_stager=self.stager, no_dist=True)
        return getattr(saving, "upload_completion", saving).result

    def load(self) -> object:
        content = {name: torch.empty_like(tensor) for name, tensor in self.state.tensors().items()}
        dcp.load(content, checkpoint_id=self.folder, no_dist=True)
        return content


class Orbax:
    """Orbax's AsyncCheckpointer over the same tensors as NumPy arrays: as they go on changing, it has to copy them."""

    def __init__(self, state: State, folder: Path):
        import orbax.checkpoint

        self.ocp = orbax.checkpoint
        self.state, self.folder = state, folder / "orbax"
        self.checkpointer = self.ocp.AsyncCheckpointer(self.ocp.StandardCheckpointHandler())

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: tensor.numpy() for name, tensor in self.state.tensors().items()}

    def save(self) -> Callable[[], object]:
        self.checkpointer.save(self.folder, args=self.ocp.args.StandardSave(self.arrays()))
        return self.checkpointer.wait_until_finished

    def load(self) -> object:
        return self.checkpointer.restore(self.folder, args=self.ocp.args.StandardRestore(self.arrays()))


class Copy:
    """The floor of `blocked`: every tensor copied into memory already touched."""

    def __init__(self, state: State, folder: Path):
        self.pairs = [(tensor, tensor.clone()) for tensor in state.tensors().values()]

    def save(self) -> Callable[[], object]:
        for source, copied in self.pairs:
            copied.copy_(source)
        return lambda: None

    def load(self) -> object:
        return None


class RawWrite:
    """The floor of `durable`: as many bytes written and fsynced."""

    def __init__(self, state: State, folder: Path):
        self.path = folder / "raw"
        self.data = b"\1" * sum(tensor.nbytes for tensor in state.tensors().values())

    def save(self) -> Callable[[], object]:
        self.path.write_bytes(self.data)
        return lambda: fsync(self.path)

    def load(self) -> object:
        return self.path.read_bytes()


WAYS: dict[str, type] = {
    "metta": Metta, "torch.save": TorchSave, "DCP async_save": DCP, "Orbax async": Orbax, "copy": Copy,
    "raw write": RawWrite,
}  # fmt: skip


def fsync(*paths: Path) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def measure_save(way: Any, folder: Path) -> Times:
    """Times in `folder`, where the way keeps what it saves."""
    clear(folder)
    os.sync()
    began = time.perf_counter()
    durable = way.save()
    blocked = time.perf_counter()
    durable()
    ended = time.perf_counter()
    return {"blocked": (blocked - began) * 1e3, "durable": (ended - began) * 1e3}


def measure_load(way: Any) -> Times:
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # free memory goes back to the system
    began = time.perf_counter()
    loaded = way.load()
    read = time.perf_counter()
    del loaded
    return {"load": (read - began) * 1e3}


def compare(size: float, rounds: int) -> dict[str, dict[str, list[float]]]:
    """way -> "blocked", "durable", "load" -> ms of each round."""
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        state, ways = State(size), {}
        for name, make in WAYS.items():
            try:
                (Path(folder) / name).mkdir()
                ways[name] = make(state, Path(folder) / name)
                measure_save(ways[name], Path(folder) / name)
            except ImportError as error:
                print(f"{name} is left out: {error}")
                ways.pop(name, None)
        saves = [{name: measure_save(way, Path(folder) / name) for name, way in ways.items()} for _ in range(rounds)]
        loads = [{name: measure_load(way) for name, way in ways.items()} for _ in range(rounds)]
        rows = [{name: save[name] | load[name] for name in ways} for save, load in zip(saves, loads, strict=True)]
        return {
            name: {column: [row[name][column] for row in rows] for column in ("blocked", "durable", "load")}
            for name in ways
        }


def print_comparison(size: str, times: dict[str, dict[str, list[float]]]) -> None:
    print(f"\n{size}: ms, median [range]; in brackets the ratio to metta's")
    print(f"{'':16}{'blocked':>28}{'durable':>32}{'load':>32}")
    for name, columns in times.items():
        cells = []
        for column, values in columns.items():
            ratio = statistics.median(values) / statistics.median(times["metta"][column])
            meant = not (name == "copy" and column != "blocked")
            cells.append(f"{spread(values, 1 if max(values) < 100 else 0)} ({ratio:.2f})" if meant else "-")
        print(f"{name:16}{cells[0]:>28}{cells[1]:>32}{cells[2]:>32}", flush=True)


def find_newest(rounds: int) -> dict[str, list[float]]:
    """ms to list a folder of 100,000 files, and to find the newest checkpoint among them."""
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        manager = TinyCheckpointManager("run", folder)
        manager.folder.mkdir(parents=True)
        for epoch in range(CHECKPOINTS):
            manager.file("agent", epoch).touch()
            manager.file("trainer", epoch).touch()
        times: dict[str, list[float]] = {"os.listdir": [], "newest": []}
        for _ in range(rounds):
            began = time.perf_counter()
            os.listdir(manager.folder)
            listed = time.perf_counter()
            assert manager.list_epochs()[-1] == CHECKPOINTS - 1
            times["os.listdir"].append((listed - began) * 1e3)
            times["newest"].append((time.perf_counter() - listed) * 1e3)
    ratio = statistics.median(times["newest"]) / statistics.median(times["os.listdir"])
    shown = "  ".join(f"{name} {spread(values)} ms" for name, values in times.items())
    print(f"\n{2 * CHECKPOINTS:,} files: {shown}  ratio {ratio:.2f}")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="instead of 11, 7 and 3")
    parser.add_argument("--only", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as training does
    warnings.simplefilter("ignore")  # DCP's and Orbax's advice on each call
    results: dict[str, Any] = {"conditions": conditions(args.threads), "sizes": {}}
    for size in args.only:
        size_bytes, rounds = SIZES[size]
        results["sizes"][size] = times = compare(size_bytes, args.rounds or rounds)
        print_comparison(size, times)
    results["newest"] = find_newest(args.rounds or 11)
    write("checkpoint_speed", results)


if __name__ == "__main__":
    main()
