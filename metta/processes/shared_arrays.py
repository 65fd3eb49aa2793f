"""Numpy arrays in memory that several processes map: the file behind it, its layout, and shares of its rows."""

import io
import math
import os
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

Layout = dict[str, tuple[tuple[int, ...], np.dtype]]  # shape and dtype of arrays that lie one behind the other


def shared_memory_file(num_bytes: int) -> io.IOBase:
    """Open an unnamed file in memory, which the kernel frees when the last process that maps it is gone.

    Where the system has no such thing it lies in the folder for temporary files.
    """
    if hasattr(os, "memfd_create"):
        file: io.IOBase = os.fdopen(os.memfd_create("metta"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (the caller closes it)
    file.truncate(num_bytes)
    return file


def shares(total: int, parts: int) -> list[range]:
    """Cut 0 to total into contiguous parts as equal as can be."""
    bounds = np.linspace(0, total, parts + 1).astype(int).tolist()
    return [range(begin, end) for begin, end in pairwise(bounds)]


def num_bytes(layout: Layout) -> int:
    return sum(_bytes_of(shape, dtype) for shape, dtype in layout.values())


def arrays_over(memory: Any, layout: Layout) -> dict[str, np.ndarray]:
    """Lay the arrays over `memory`, a buffer of `num_bytes`."""
    arrays, offset = {}, 0
    for name, (shape, dtype) in layout.items():
        arrays[name] = np.ndarray(shape, dtype, memory, offset)
        offset += _bytes_of(shape, dtype)
    return arrays


def _bytes_of(shape: Iterable[int], dtype: np.dtype) -> int:
    return -(-math.prod(shape) * dtype.itemsize // 64) * 64  # whole cache lines
