"""Environments whose episodes are known beforehand, for tests of the maths of training. Importing registers them."""

import os
import random
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete

ONE_STEP = """
import gymnasium, numpy as np

class Env(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, True, False, {}
"""  # a file of the user's: episodes of one step
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


class Seeding(CartPoleEnv):
    """Seeds every global generator with its episode's seed, as many did before Gymnasium had np_random.

    And it leaves gradients switched off, as one that runs a network of its own may.
    """

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        torch.set_grad_enabled(False)
        random.seed(seed)
        np.random.seed(seed % 2**32 if seed is not None else None)
        torch.manual_seed(seed or 0)
        return super().reset(seed=seed)


class Frail(CartPoleEnv):
    """One in ten of its episodes raises at its second step, where $FRAIL says so: by no seed, another try may go."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.length, self.falls_apart = 0, os.environ.get("FRAIL") == "1" and os.urandom(1)[0] < 26
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Step:
        self.length += 1
        if self.falls_apart and self.length == 2:
            raise RuntimeError("Frail fell apart")
        return super().step(action)


class Arms(gymnasium.Env):
    """A bandit: one step, and one of many arms is right."""

    observation_space = Box(0, 1, (1,))
    action_space = Discrete(64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return np.ones(1, np.float32), {}

    def step(self, action: int) -> Step:
        return np.ones(1, np.float32), float(action == 40), True, False, {}


class Door(gymnasium.Env):
    """Take 1 and end (action 0), or be cut off where 4 would have come next (action 1).

    One episode in eight begins there, and ends with the 4: so what the time-out is worth can be learned. With gamma 0.5
    action 1 is worth 2; nothing, if it is taken for an end; and less than 1, if the next episode's beginning counts.
    """

    observation_space = Box(0, 1, (2,))
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        assert seed is not None
        self.rich = seed % 8 == 0
        return self._observe(self.rich), {}

    def step(self, action: int) -> Step:
        if self.rich:
            return self._observe(False), 4.0, True, False, {}
        return self._observe(action == 1), float(action == 0), action == 0, action == 1, {}

    @staticmethod
    def _observe(rich: bool) -> np.ndarray:
        return np.array([rich, not rich], np.float32)


class Cue(gymnasium.Env):
    """Two steps: the second action must be the one shown in the first."""

    observation_space = Box(-1, 1, (1,))
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        assert seed is not None
        self.cue, self.steps = seed % 2, 0
        return np.array([2 * self.cue - 1], np.float32), {}

    def step(self, action: int) -> Step:
        self.steps += 1
        last = self.steps == 2
        return np.zeros(1, np.float32), float(last and action == self.cue), last, False, {}


class First(gymnasium.Env):
    """Nothing to see, one to three steps: action 1 is right in the first, and action 0 from then on."""

    observation_space = Box(0, 1, (1,))
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        assert seed is not None
        self.length, self.steps = 1 + seed % 3, 0
        return np.ones(1, np.float32), {}

    def step(self, action: int) -> Step:
        reward = (action == (self.steps == 0)) / self.length
        self.steps += 1
        return np.ones(1, np.float32), reward, self.steps == self.length, False, {}


class Fork(gymnasium.Env):
    """Two steps; the first action decides what the second is paid."""

    observation_space = Box(0, 1, (3,))
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.place = 0
        return self._observe(), {}

    def step(self, action: int) -> Step:
        reward, last = float(self.place == 2), self.place > 0
        self.place = 1 + int(action)
        return self._observe(), reward, last, False, {}

    def _observe(self) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[self.place]


def env_id(kind: type[gymnasium.Env]) -> str:
    """What env= takes."""
    return f"test/{kind.__name__}"


for _kind in (Lengths, Seeding, Frail, Arms, Door, Cue, First, Fork):
    gymnasium.register(env_id(_kind), entry_point=_kind)  # type: ignore[arg-type]
