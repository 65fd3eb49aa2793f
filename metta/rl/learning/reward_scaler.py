"""Rewards of every environment brought to one scale."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from metta.moments import Moments, merged

CLIP = 10.0


class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return, so that one learning rate fits all.

    Engstrom et al. 2020 (arXiv 2005.12729, section 3); the statistics are training's own and never touch a score.
    """

    def __init__(self, rows: Sequence[int], gamma: float):
        """rows: of each of this process's shards."""
        self.gamma = gamma
        self.discounted = [np.zeros(count) for count in rows]
        self.moments = Moments(0.0, 0.0, 0.0)

    def __call__(
        self,
        rollouts: Sequence[tuple[np.ndarray, np.ndarray]],
        gather: Callable[[np.ndarray], np.ndarray],
        present: Sequence[Any],
    ) -> list[np.ndarray]:
        """Take rollouts, (rewards, done) `[T, B]` of each shard, into the statistics; returns the rewards scaled.

        gather: from these shards' moments `[shards, 3]` to all shards'; present: where there were agents, an index.
        """
        own = [
            Moments.of(discounted_returns(discounted, rewards, done, self.gamma)[where])
            for discounted, (rewards, done), where in zip(self.discounted, rollouts, present, strict=True)
        ]
        self.moments = self.moments.merge(merged(gather(np.array(own))))
        scale = 1 / np.sqrt(self.moments.m2 / self.moments.count + 1e-8)
        return [np.clip(rewards * scale, -CLIP, CLIP).astype(np.float32) for rewards, _ in rollouts]

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics, which all shards have in common."""
        return {name: np.copy(value) for name, value in self.moments._asdict().items()}

    def load_state_dict(self, state: dict[str, Any], discounted: Sequence[np.ndarray]) -> None:
        self.moments = Moments(*(float(state[name]) for name in Moments._fields))
        self.discounted = [each.copy() for each in discounted]


def discounted_returns(discounted: np.ndarray, rewards: np.ndarray, done: np.ndarray, gamma: float) -> np.ndarray:
    """The discounted sums of the rewards so far `[T, B]`, from `discounted` `[B]` on, which is taken further."""
    history = np.empty(rewards.shape)
    for t in range(len(rewards)):
        discounted *= gamma
        discounted += rewards[t]
        history[t] = discounted
        discounted[done[t]] = 0
    return history
