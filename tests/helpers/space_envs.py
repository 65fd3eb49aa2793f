"""Environments of every kind of space, some with masks, whose episodes follow from seeds. Importing registers them."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Drawn(gymnasium.Env):
    """Seven to twelve steps; an observation is a draw of its space, and a reward the sum of the action's numbers."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        self.rng = np.random.RandomState(seed)  # whose stream numpy never changes
        self.left = 7 + seed % 6
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.left -= 1
        return self.observe(), float(np.sum(action)), self.left == 0, False, {}

    def observe(self) -> Any:
        self.observation_space.seed(int(self.rng.randint(2**31)))
        return self.observation_space.sample()


class Goal(Drawn):
    """As the robots of gymnasium-robotics."""

    observation_space = spaces.Dict(
        {
            "observation": spaces.Box(-np.inf, np.inf, (10,), np.float64),
            "achieved_goal": spaces.Box(-np.inf, np.inf, (3,), np.float64),
            "desired_goal": spaces.Box(-np.inf, np.inf, (3,), np.float64),
        }
    )
    action_space = spaces.Box(-1, 1, (4,))


class Car(Drawn):
    """A bit of everything, and `action_masks` as in sb3-contrib, an array for each choice."""

    observation_space = spaces.Dict(
        {
            "eye": spaces.Box(0, 255, (6, 6, 3), np.uint8),
            "gear": spaces.Discrete(3, start=-1),
            "inside": spaces.Tuple((spaces.MultiBinary((2, 2)), spaces.Dict({"x": spaces.Box(-9, 9, ())}))),
            "lights": spaces.MultiDiscrete([2, 3]),
            "road": spaces.Text(9),
        }
    )
    action_space = spaces.MultiDiscrete([3, 2, 4], start=[0, 5, -1])

    def action_masks(self) -> list[np.ndarray]:
        return [self.allowed[:3], self.allowed[3:5], self.allowed[5:]]

    def observe(self) -> Any:
        self.allowed = self.rng.rand(9) < 0.5
        self.allowed[[0, 4, 7]] = True
        return super().observe()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        steer, blink, pedal = action
        assert self.allowed[steer] and self.allowed[3 + blink - 5] and self.allowed[5 + pedal + 1], "a forbidden action"
        return super().step(action)


class Lamps(Drawn):
    """Switches alone."""

    observation_space = spaces.MultiBinary(5)
    action_space = spaces.MultiBinary([2, 2])


class Board(Drawn):
    """One place after another is taken; the mask is in the observation, as in PettingZoo's."""

    observation_space = spaces.Dict(
        {"observation": spaces.Box(0, 1, (3, 3, 2), np.int8), "action_mask": spaces.Box(0, 1, (9,), np.int8)}
    )
    action_space = spaces.Discrete(9)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.free = np.ones(9, np.int8)
        first = super().reset(seed=seed)
        self.left = min(self.left, 9)
        return first

    def observe(self) -> Any:
        board = np.stack((self.free, 1 - self.free), -1).reshape(3, 3, 2)
        return {"observation": board, "action_mask": self.free.copy()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.free[action], "a forbidden action"
        self.free[action] = 0
        return super().step(action)


class Stuck(Board):
    """Nothing may be done after the third step of a seed's episode."""

    def observe(self) -> Any:
        observation = super().observe()
        return observation if self.free.sum() > 6 else {**observation, "action_mask": np.zeros(9, np.int8)}


def env_name(kind: type[gymnasium.Env]) -> str:
    """What env= takes in a process that has not imported this."""
    return f"tests.helpers.space_envs:{kind.__name__}"


for _kind in (Goal, Car, Lamps, Board, Stuck):
    if f"test/{_kind.__name__}-v0" not in gymnasium.registry:  # this file may be loaded as a module and by its path
        gymnasium.register(f"test/{_kind.__name__}-v0", entry_point=_kind)  # type: ignore[arg-type]
