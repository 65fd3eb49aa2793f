"""Environments whose episodes are known beforehand, for tests of the maths of training. Importing registers them."""

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

Step = tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]


class Lengths(gymnasium.Env):
    """Episodes of 1 to 6 steps that terminate, are truncated, or both at once, all by their seed.

    Every observation is new noise, the final one too: none can be taken for another.
    """

    observation_space = Box(-np.inf, np.inf, (4,))

    def __init__(self, continuous: bool = False):
        self.continuous = continuous
        self.action_space = Box(-1, 1, (2,)) if continuous else Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        assert seed is not None
        self.noise = np.random.RandomState(seed)  # whose stream numpy never changes
        self.left = 1 + seed % 6
        self.terminates, self.truncates = [(True, False), (False, True), (True, True)][seed // 6 % 3]
        return self._observe(), {}

    def step(self, action: Any) -> Step:
        self.left -= 1
        reward = float(np.sum(action)) + float(self.observed.sum())
        last = self.left == 0
        return self._observe(), reward, self.terminates and last, self.truncates and last, {}

    def _observe(self) -> np.ndarray:
        self.observed = self.noise.standard_normal(4).astype(np.float32)
        return self.observed


def register() -> None:
    for kind in (Lengths,):
        gymnasium.register(f"test/{kind.__name__}", entry_point=kind)  # type: ignore[arg-type]


register()
