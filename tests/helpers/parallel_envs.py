"""PettingZoo environments whose agents come late and leave early, whose episodes follow from seeds."""

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv


class Shift(ParallelEnv):
    """Of four agents "d" comes at step 3, "a" dies at 4, "b" is cut off at 6, "e" never comes; all end by step 7 to 12.

    A reward is the action, and infos have masks.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "shift", "render_modes": []}

    def __init__(self, length: int = 7):
        self.possible_agents = ["a", "b", "c", "d", "e"]
        self.length = length

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(-np.inf, np.inf, (3,))

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(4, start=1)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        assert seed is not None
        self.rng = np.random.RandomState(seed)
        self.agents, self.steps = ["a", "b", "c"], 0
        self.last = self.length + seed % 6
        return self.observe()

    def observe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        self.masks = {name: self.rng.rand(4) < 0.6 for name in self.agents}
        for mask in self.masks.values():
            mask[self.steps % 4] = True
        seen = {name: self.rng.standard_normal(3).astype(np.float32) for name in self.agents}
        return seen, {name: {"action_mask": mask} for name, mask in self.masks.items()}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        assert actions.keys() == set(self.agents)
        assert all(self.masks[name][action - 1] for name, action in actions.items()), "a forbidden action"
        self.steps += 1
        over = self.steps == self.last
        terminations = {name: over or (name == "a" and self.steps == 4) for name in self.agents}
        truncations = {name: name == "b" and self.steps == 6 for name in self.agents}
        if self.steps == 3:
            self.agents = [*self.agents, "d"]
        seen, infos = self.observe()  # of those who leave now, too
        rewards = {name: float(action) for name, action in actions.items()}
        self.agents = [n for n in self.agents if not (terminations.get(n, False) or truncations.get(n, False))]
        return seen, rewards, terminations, truncations, infos


class Table(Shift):
    """The same with the masks in the observations, and several choices; who leaves says nothing more."""

    def observation_space(self, agent: str) -> spaces.Space:
        mask = spaces.MultiBinary(5)
        return spaces.Dict({"observation": super().observation_space(agent), "action_mask": mask})

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.MultiDiscrete([2, 3])

    def observe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        seen, _ = super().observe()
        masks = {name: np.array([1, self.steps % 2, 1, 0, 1], np.int8) for name in seen}
        return {name: {"observation": seen[name], "action_mask": masks[name]} for name in seen}, {n: {} for n in seen}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        assert all(second != 1 and first <= self.steps % 2 for first, second in actions.values()), "a forbidden action"
        self.masks = {name: np.ones(4, bool) for name in self.agents}
        seen, rewards, *ends, infos = super().step({name: int(action[0]) + 1 for name, action in actions.items()})
        here = {name: seen[name] for name in self.agents}
        return here, rewards, ends[0], ends[1], infos


class Unlike(Shift):
    """One agent sees more than the others."""

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(-1, 1, (4 if agent == "c" else 3,))


class Turns(AECEnv):
    """Agents take turns."""

    metadata: ClassVar[dict[str, Any]] = {"name": "turns", "is_parallelizable": False}
    possible_agents: ClassVar[list[str]] = ["a", "b"]


class Lingers(Shift):
    """The same, but who has ended stays among `agents`, with rewards that nobody earned, as do all in the end."""

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.gone: list[str] = []
        return super().reset(seed, options)

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        assert actions.keys() == set(self.agents)
        self.agents = [name for name in self.agents if name not in self.gone]
        before = [*self.agents]
        seen, rewards, terminations, truncations, infos = super().step({name: actions[name] for name in before})
        for name in self.gone:
            seen[name], rewards[name], terminations[name] = np.zeros(3, np.float32), 9.0, True
        self.gone += [name for name in before if name not in self.agents]
        self.agents = [*self.agents, *self.gone]
        return seen, rewards, terminations, truncations, infos
