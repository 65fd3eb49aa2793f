"""Who plays: an agent, or chance. Each episode draws from its own seed, so it is the same whoever plays beside it."""

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent, State
from metta.agent.twin_network import TwinNetwork
from metta.envs.env_spec import EnvSpec, check_fit
from metta.user_code import users_code

NOISE_STEPS = 64  # of an episode's noise are drawn at once


class AgentPlayer:
    """An agent at its best: the likeliest action where it is alone, sampled ones where it plays among its copies.

    sampled: drawn actions for the one that is alone, too.

    Copies of one policy that meet head on choose alike and block each other for good unless they draw. Each episode
    draws from a generator of its own seed, so it comes out the same whichever others are played beside it.
    """

    def __init__(self, agent: PolicyAgent, num_envs: int, num_agents: int, sampled: bool = False):
        self._actor = TwinNetwork.of(agent) or agent
        self._own_code = () if type(agent) is PolicyAgent else (f"agent {type(agent).__name__}",)
        self.sampled = sampled or num_agents > 1
        self.state: State = agent.initial_state(num_envs * num_agents)
        self._noise = [EpisodeNoise(agent, num_agents) for _ in range(num_envs)]

    def begin(self, env_index: int, seed: int) -> None:
        self._noise[env_index].begin(seed)

    def act(self, observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
        noise = torch.cat([noise.next() for noise in self._noise]) if self.sampled else None
        with users_code(*self._own_code):
            actions, self.state = self._actor.act(observations, self.state, starts, not self.sampled, noise)
        return actions


class EpisodeNoise:
    """One episode's sampling noise, `[num_agents, n]` for each step, from a generator with the episode's seed."""

    def __init__(self, agent: PolicyAgent, num_agents: int):
        self._distribution, self._num_agents = agent.distribution, num_agents
        self._generator = torch.Generator()
        self.begin(0)

    def begin(self, seed: int) -> None:
        self._generator.manual_seed(seed)
        self._step = NOISE_STEPS

    def next(self) -> Tensor:
        if self._step == NOISE_STEPS:
            self._drawn = self._distribution.noise(NOISE_STEPS, self._num_agents, generator=self._generator)
            self._step = 0
        self._step += 1
        return self._drawn[self._step - 1]


class RandomPlayer:
    """Uniformly random allowed actions (standard normal where there are no bounds), from each episode's own seed."""

    def __init__(self, spec: EnvSpec, num_envs: int):
        self.spec = spec
        self._generators = [np.random.default_rng(0) for _ in range(num_envs)]

    def begin(self, env_index: int, seed: int) -> None:
        self._generators[env_index] = np.random.default_rng(seed)

    def act(self, observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
        each = observations.reshape(len(self._generators), self.spec.num_agents, *observations.shape[1:])
        return np.concatenate([self._draw(*pair) for pair in zip(self._generators, each, strict=True)])

    def _draw(self, generator: np.random.Generator, observations: np.ndarray) -> np.ndarray:
        spec = self.spec
        if spec.masked:
            lots = np.where(spec.mask_in(observations), generator.random((spec.num_agents, sum(spec.choices))), -1)
            chosen = [lot.argmax(1) for lot in np.split(lots, np.cumsum(spec.choices)[:-1], 1)]
            return np.stack(chosen, 1).reshape(-1, *spec.action_shape)
        if spec.choices:
            return generator.integers(spec.num_actions or spec.choices, size=(spec.num_agents, *spec.action_shape))
        low, high = np.array(spec.action_low), np.array(spec.action_high)
        bounded = np.isfinite(low) & np.isfinite(high)
        normal = generator.standard_normal((spec.num_agents, len(low)))
        uniform = generator.uniform(np.where(bounded, low, 0), np.where(bounded, high, 1), normal.shape)
        return np.where(bounded, uniform, normal).reshape(-1, *spec.action_shape).astype(np.float32)


# Chooses actions for all rows; call `begin` when an episode with this seed starts in that environment.
Player: TypeAlias = AgentPlayer | RandomPlayer


def make_player(agent: PolicyAgent | None, spec: EnvSpec, num_envs: int, sampled: bool = False) -> Player:
    """Make the player for num_envs environments; agent None: random. UserError unless the agent can act in them."""
    if agent is None:
        return RandomPlayer(spec, num_envs)
    check_fit(agent.env, spec)
    return AgentPlayer(agent, num_envs, spec.num_agents, sampled)
