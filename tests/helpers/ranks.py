"""Training by torchrun, in one agent or several, and the bits that come out."""

import hashlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager

ROOT = Path(__file__).parents[2]
TRAIN = ["-m", "metta.tools.main", "train"]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        env={**ENVIRONMENT, **environment},
        cwd="/",  # python -m looks there first, and PYTHONPATH is to say which metta it is
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def torchrun(ranks: int, arguments: list[str], *options: str) -> subprocess.Popen[str]:
    """One agent with so many ranks."""
    own = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *options]
    return start([*own, *TRAIN, *arguments])


def two_agents(arguments: list[str]) -> list[subprocess.Popen[str]]:
    """Two agents with two ranks each, as on two machines."""
    own = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    own.append(f"--master-port={free_port()}")
    return [start([*own, f"--node-rank={node}", *TRAIN, *arguments]) for node in (0, 1)]


def ended(*processes: subprocess.Popen[str], timeout: float = 300) -> list[tuple[int, str]]:
    """The exit status and stderr of each."""
    said = [process.communicate(timeout=timeout)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def bits(run: str, train_dir: Path) -> str:
    """The sha256 of all that the newest checkpoint has, but for the configuration."""
    loaded = TinyCheckpointManager(run, train_dir).load_latest()
    assert loaded is not None
    epoch, agent, state = loaded
    digest = hashlib.sha256(str(epoch).encode())
    feed(digest, {"agent": dict(agent.state_dict()), **{key: state[key] for key in state.keys() - {"config"}}})
    return digest.hexdigest()


def feed(digest: Any, value: Any) -> None:
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            feed(digest, value[key])
    elif isinstance(value, list | tuple):
        for each in value:
            feed(digest, each)
    elif isinstance(value, torch.Tensor):
        digest.update(str((value.dtype, value.shape)).encode() + value.contiguous().view(-1).numpy().tobytes())
    elif hasattr(value, "tobytes"):
        digest.update(str((value.dtype, value.shape)).encode() + value.tobytes())
    else:
        digest.update(repr(value).encode())
