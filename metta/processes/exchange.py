"""What shards have computed, added up and brought together: the same to the bit whichever processes computed it.

The processes of one rank meet in memory that they share; where other ranks have the other shards, one process of each
goes on from there (metta/processes/ranks.py). Sums follow one binary tree over all shards: whoever has neighbouring
shards adds up a part of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metta.processes.ranks import Ranks, tree_sum

ROW = 1 << 16  # bytes of each shard that are brought together at once
Meet = Callable[[Callable[[], None]], None]


@dataclass(frozen=True)
class Dealt:
    """Who computes which of `num_shards` shards: each process of this rank (`local`), and this process (`mine`)."""

    num_shards: int
    local: tuple[range, ...]
    mine: range

    @property
    def block(self) -> range:
        """Those of this rank."""
        return range(self.local[0].start, self.local[-1].stop)

    @property
    def alone(self) -> bool:
        return len(self.mine) == self.num_shards


class Exchange:
    """Every process has one, and calls its methods in the same order as the others."""

    def __init__(self, dealt: Dealt, size: int, memory: Any, meet: Meet, ranks: Ranks | None, device: Any):
        """size: float32 numbers of a shard that are added up; memory: a buffer of `memory_bytes`, shared by the rank.

        meet(between): returns when every process of the rank has called it, and the first one has called `between`.
        """
        self.dealt, self._meet, self._ranks = dealt, meet, ranks
        block, self._first = dealt.block, dealt.block.start
        # Everything twice, by turns: who is ahead writes one while another still reads the other.
        floats = torch.frombuffer(memory, dtype=torch.float32)[: 2 * len(block) * size]
        self.apart = floats.view(2, len(block), size).to(device)
        table = torch.frombuffer(memory, dtype=torch.uint8)[floats.nbytes :]
        self._table = table[: 2 * dealt.num_shards * ROW].view(2, dealt.num_shards, ROW)
        self.turn = 0
        self._width = power_of_two_in(*(part.start for part in dealt.local), block.stop)
        self.total = torch.zeros(size, device=device)

    @staticmethod
    def memory_bytes(dealt: Dealt, size: int) -> int:
        return 2 * (4 * len(dealt.block) * size + dealt.num_shards * ROW)

    def add_up(self) -> None:
        """Put the sum of all shards' numbers into `total`; each has its own in `apart[turn, shard - block.start]`."""
        apart, width, turn = self.apart[self.turn], self._width, self.turn
        for shard in range(self.dealt.mine.start, self.dealt.mine.stop, width):
            first = shard - self._first
            apart[first] = tree_sum(apart[first : first + width].unbind())
        self._meet(lambda: self._add_up_ranks(turn))
        nodes = apart[::width] if self._ranks is None else apart[:1]
        self.turn = 1 - turn
        self.total.copy_(tree_sum(nodes.unbind()))

    def gather(self, own: np.ndarray) -> np.ndarray:
        """All shards' numbers `[num_shards, ...]`, of which this process has its own shards' `[shards, ...]`."""
        if self.dealt.alone:
            return own
        bytes_of = torch.from_numpy(np.ascontiguousarray(own).reshape(len(own), -1)).view(torch.uint8)
        pieces = [self._gather_bytes(piece) for piece in bytes_of.split(ROW, 1)]
        together = torch.cat(pieces, 1).numpy().view(own.dtype)
        return together.reshape(self.dealt.num_shards, *own.shape[1:])

    def _gather_bytes(self, piece: Tensor) -> Tensor:
        mine, block, turn = self.dealt.mine, self.dealt.block, self.turn
        table = self._table[turn][:, : piece.shape[1]]
        table[mine.start : mine.stop] = piece

        def between() -> None:
            if self._ranks is not None:
                table[:] = self._ranks.gather(table[block.start : block.stop].contiguous())

        self._meet(between)
        self.turn = 1 - turn
        return table.clone()

    def _add_up_ranks(self, turn: int) -> None:
        """Finish the part of the tree that this rank has, and have the ranks add up theirs; in one of its processes."""
        if self._ranks is None:
            return
        apart, width = self.apart[turn], power_of_two_in(len(self.dealt.block))
        for first in range(0, len(apart), width):
            apart[first] = tree_sum(apart[first : first + width : self._width].unbind())
        apart[0] = self._ranks.sum(apart[::width])


def power_of_two_in(*numbers: int) -> int:
    """The largest power of two that divides all of them."""
    divisor = math.gcd(*numbers)
    return divisor & -divisor
