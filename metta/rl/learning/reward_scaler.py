"""Rewards of every environment brought to one scale."""

from typing import Any

import numpy as np


class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return, so that one learning rate fits all.

    Engstrom et al. 2020 (arXiv 2005.12729, section 3); the statistics are training's own and never touch a score.
    """

    def __init__(self, rows: int, gamma: float, clip: float = 10.0):
        self.gamma, self.clip = gamma, clip
        self.discounted = np.zeros(rows)
        self.count, self.mean, self.m2 = 0, 0.0, 0.0

    def __call__(self, rewards: np.ndarray, done: np.ndarray) -> np.ndarray:
        """Take a rollout `[T, B]` into the statistics and return its rewards scaled, float32."""
        history = np.empty(rewards.shape)
        for t in range(len(rewards)):
            self.discounted *= self.gamma
            self.discounted += rewards[t]
            history[t] = self.discounted
            self.discounted[done[t]] = 0
        n, total = history.size, self.count + history.size
        delta = history.mean() - self.mean
        self.m2 += history.var() * n + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count = total
        scale = 1 / np.sqrt(self.m2 / self.count + 1e-8)
        return np.clip(rewards * scale, -self.clip, self.clip).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {name: np.copy(getattr(self, name)) for name in ("discounted", "count", "mean", "m2")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discounted = state["discounted"].copy()
        self.count, self.mean, self.m2 = int(state["count"]), float(state["mean"]), float(state["m2"])
