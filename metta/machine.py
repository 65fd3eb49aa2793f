"""What the machine gives a process: a device, threads, memory; and the software that decides its last bits."""

import ctypes
import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch

from metta.errors import UserError


def pick_device(name: str) -> torch.device:
    """Find the device; auto is the GPU where there is one. UserError where torch sees none of that name."""
    gpus = torch.cuda.device_count()
    try:
        device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    except (RuntimeError, TypeError):
        raise UserError(f"device={name}: must be auto, cpu, cuda, cuda:N or mps") from None
    if device == torch.device("cuda") and "LOCAL_RANK" in os.environ:  # torchrun's: each rank has a GPU
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % max(1, gpus))
    there = {"cuda": (device.index or 0) < gpus, "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, True):
        raise UserError(f"device={name}: torch sees no such GPU here; device=cpu works")
    return device


def make_deterministic(device: torch.device) -> None:
    """Have torch compute the same bits each time on a GPU, and warn where it cannot."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def set_threads(count: int) -> None:
    """Have torch compute on `count` threads; OMP_NUM_THREADS has the last word.

    The number of threads changes the last bits of sums, so it is part of what an exact continuation needs to be the
    same.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, count))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: more gain little in acting, and lose much where another process has the core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Have the C library keep what torch frees, which is what it asks for next: Breakout 1.18 times as fast.

    By default glibc hands large blocks back to the system, and every page of the next one is a fault. Elsewhere nothing
    happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # as in malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


@cache
def identity() -> dict[str, str]:
    """Name what all machines of one run need to have in common, for the replicas to stay the same to the bit."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return {
        "metta": digest.hexdigest()[:12],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def software(device: torch.device) -> dict[str, str]:
    """Name what else the bits of a computation depend on."""
    return {
        **identity(),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": str(torch.get_num_threads()),
    }
