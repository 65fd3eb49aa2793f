"""Playing episodes: an agent (or a random one), an environment, and a list of seeds that anyone can play again."""

import os
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent, State
from metta.envs.env_spec import EnvSpec
from metta.envs.vec_env import DealtSeeds, Episode, VecEnv

ROWS = 256  # agents acted for at once, by default: enough to pay for a network call, and little memory
NOISE_STEPS = 64  # of an episode's noise are drawn at once


class Player(Protocol):
    """Chooses actions for all rows; `begin` tells it that an episode with this seed starts in that environment."""

    def begin(self, env_index: int, seed: int) -> None: ...

    def act(self, observations: np.ndarray, starts: np.ndarray) -> np.ndarray: ...


class AgentPlayer:
    """An agent at its best: the likeliest action where it is alone, sampled ones where it plays among its copies.

    Copies of one policy that meet head on choose alike and block each other for good unless they draw. Each episode
    draws from a generator of its own seed, so it comes out the same whichever others are played beside it.
    """

    def __init__(self, agent: PolicyAgent, num_envs: int, num_agents: int, sampled: bool | None = None):
        self.agent = agent
        self.sampled = num_agents > 1 if sampled is None else sampled
        self.state: State = agent.initial_state(num_envs * num_agents)
        self._noise = [EpisodeNoise(agent, num_agents) for _ in range(num_envs)]

    def begin(self, env_index: int, seed: int) -> None:
        self._noise[env_index].begin(seed)

    def act(self, observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
        noise = torch.cat([noise.next() for noise in self._noise]) if self.sampled else None
        actions, self.state = self.agent.act(observations, self.state, starts, not self.sampled, noise)
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
    """Uniformly random actions (standard normal where an action has no bounds), from each episode's own seed."""

    def __init__(self, spec: EnvSpec, num_envs: int):
        self.spec = spec
        self._generators = [np.random.default_rng(0) for _ in range(num_envs)]

    def begin(self, env_index: int, seed: int) -> None:
        self._generators[env_index] = np.random.default_rng(seed)

    def act(self, observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
        return np.concatenate([self._draw(generator) for generator in self._generators])

    def _draw(self, generator: np.random.Generator) -> np.ndarray:
        spec = self.spec
        if spec.num_actions is not None:
            return generator.integers(spec.num_actions, size=spec.num_agents)
        low, high = np.array(spec.action_low), np.array(spec.action_high)
        bounded = np.isfinite(low) & np.isfinite(high)
        normal = generator.standard_normal((spec.num_agents, len(low)))
        uniform = generator.uniform(np.where(bounded, low, 0), np.where(bounded, high, 1), normal.shape)
        return np.where(bounded, uniform, normal).reshape(-1, *spec.action_shape).astype(np.float32)


def default_num_envs(spec: EnvSpec, episodes: int) -> int:
    """Never a function of the machine: the same evaluation is the same computation everywhere."""
    return max(1, min(episodes, ROWS // spec.num_agents))


def default_num_workers(spec: EnvSpec) -> int:
    """All cores where a step takes long, as with many agents; that changes the speed, never a result."""
    return (os.cpu_count() or 1) - 1 if spec.num_agents > 1 else 0


def play_episodes(envs: VecEnv, player: Player) -> list[Episode]:
    """Play every episode that `envs` was dealt (DealtSeeds), in the order of their seeds.

    Dealt beforehand, so that environments with short episodes do not contribute more of them.
    """
    seeds = envs.episode_seeds
    assert isinstance(seeds, DealtSeeds)
    envs.reset()
    played = [0] * envs.num_envs
    for env_index in range(envs.num_envs):
        seed = seeds(env_index, 0)
        if seed is not None:
            player.begin(env_index, seed)
    starts = np.ones(envs.batch_size, dtype=bool)
    episodes: list[Episode] = []
    while envs.active.any():
        ended = envs.step(player.act(envs.observations, starts))
        np.logical_or(envs.terminated, envs.truncated, out=starts)
        for episode in ended:
            played[episode.env_index] += 1
            seed = seeds(episode.env_index, played[episode.env_index])
            if seed is not None:
                player.begin(episode.env_index, seed)
        episodes += ended
    return sorted(episodes, key=lambda episode: episode.seed)


def make_player(agent: PolicyAgent | None, envs: VecEnv) -> Player:
    """The player for `envs`; agent None: a random one."""
    if agent is None:
        return RandomPlayer(envs.spec, envs.num_envs)
    check_fit(agent.env, envs.spec)
    return AgentPlayer(agent, envs.num_envs, envs.num_agents)


def check_fit(trained: EnvSpec, other: EnvSpec) -> None:
    """ValueError unless an agent trained on one environment can act in the other."""
    for name in ("observation_kind", "observation_shape", "num_actions", "action_shape", "tokens"):
        had, has = getattr(trained, name), getattr(other, name)
        if had != has:
            what = name.replace("_", " ")
            detail = "" if name == "tokens" else f" ({what} {had}, not {has})"
            raise ValueError(
                f"an agent trained on {trained.label} cannot act in {other.label}: their {what} differ{detail}"
            )


def dealt_envs(
    env: str, settings: dict[str, Any], seed: int, episodes: int, num_envs: int, num_workers: int = 0
) -> VecEnv:
    """Environments dealt the episodes with seeds `seed` to `seed + episodes - 1`."""
    return VecEnv(env, num_envs, DealtSeeds(seed, episodes, num_envs), num_workers, settings)
