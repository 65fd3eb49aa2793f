"""Dealing a rollout's steps into minibatches: each shard deals its own, so that no experience travels.

A minibatch is the k-th slice of every shard. What its advantages are normalised by are the moments of all its slices.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from metta.moments import Moments, merged
from metta.processes.exchange import Exchange
from metta.rl.learning.rollout import Batch


@dataclass(frozen=True)
class Part:
    """A shard's part of a minibatch: the rows `index` of its batch.

    mean, std: of the whole minibatch's advantages, each `[]`; share: of its steps that are in this part.
    """

    batch: Batch
    index: Tensor
    mean: Tensor
    std: Tensor
    share: float

    def rows(self) -> Batch:
        """Its rows, their advantages normalised."""
        rows = self.batch.rows(self.index)
        rows.advantages = (rows.advantages - self.mean) / (self.std + 1e-8)
        return rows


@dataclass(frozen=True)
class Minibatch:
    """This process's parts, by shard, and which of all shards have rows in it."""

    parts: Mapping[int, Part]
    present: list[int]


class Minibatches:
    """Deals one pass after the other over the data of an epoch."""

    def __init__(self, batches: Mapping[int, Batch], rows: int, size: int, exchange: Exchange, seed: int):
        """batches: of this process's shards; rows: of all shards; size: of a minibatch at most, in rows.

        All are equally large, give or take a row: a remainder of one row has no deviation to normalise by.
        """
        self.batches, self.exchange, self.num_shards = batches, exchange, exchange.dealt.num_shards
        count = -(-rows // size)
        self.rows, self.ends = rows, [rows * k // count for k in range(count + 1)]
        self._generators = {shard: torch.Generator().manual_seed(seed + shard) for shard in batches}
        self._turns = np.random.default_rng(seed)

    def deal(self, passes: int = 1) -> list[list[Minibatch]]:
        """The minibatches of some passes, in each of which every row is once."""
        slices: dict[int, list[Tensor]] = {shard: [] for shard in self.batches}
        for _ in range(passes):
            turns = self._turns.permutation(self.num_shards).tolist()
            for shard in self.batches:
                slices[shard] += self._slices(shard, turns[shard])
        own = np.stack([advantage_moments(self.batches[shard], slices[shard]) for shard in self.batches])
        table = self.exchange.gather(own)
        whole = merged(table)
        device = next(iter(self.batches.values())).advantages.device
        means, stds = (torch.from_numpy(column).float().to(device).unbind() for column in (whole.mean, whole.std))
        dealt: list[list[Minibatch]] = [[] for _ in range(passes)]
        for k, count in enumerate(whole.count):
            if count:  # none of unequal shards may have a row in a small one
                parts = {
                    shard: Part(batch, slices[shard][k], means[k], stds[k], float(table[shard, k, 0] / count))
                    for shard, batch in self.batches.items()
                }
                dealt[k * passes // len(whole.count)].append(Minibatch(parts, np.flatnonzero(table[:, k, 0]).tolist()))
        return dealt

    def _slices(self, shard: int, turn: int) -> list[Tensor]:
        """A shard's rows in random order, cut like all rows. Shards round by turns: the sizes add up to what they are.

        Of s equal shards floor(x + turn / s) adds up to floor(s x) over all turns, by Hermite's identity.
        """
        advantages = self.batches[shard].advantages
        rows = advantages.shape[1]
        order = torch.randperm(rows, generator=self._generators[shard]).to(advantages.device)
        shards, all_rows = self.num_shards, self.rows
        bounds = [(end * rows * shards + turn * all_rows) // (all_rows * shards) for end in self.ends]
        return [order[begin:end] for begin, end in pairwise(bounds)]


def advantage_moments(batch: Batch, slices: list[Tensor]) -> np.ndarray:
    """Count, mean and squared deviations of the advantages in each slice, `[slices, 3]`."""
    advantages, none = batch.advantages.double(), batch.advantages.new_zeros((2,), dtype=torch.float64)
    chosen, present = [advantages.index_select(1, index) for index in slices], batch.present
    if present is not None:
        chosen = [part[present.index_select(1, index)] for part, index in zip(chosen, slices, strict=True)]
    pairs = [torch.stack(torch.var_mean(part, correction=0)) if part.numel() else none for part in chosen]
    var, mean = torch.stack(pairs).cpu().numpy().T
    count = np.array([part.numel() for part in chosen], np.float64)
    return np.stack(Moments(count, mean, var * count), -1)
