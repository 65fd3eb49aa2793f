"""The environments that one process steps: all of them in the caller's, or a share in each worker process."""

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from metta.envs.by_value import unpack
from metta.envs.env_spec import EnvName, EnvSpec
from metta.envs.made import Adapter, close_env
from metta.envs.make_env import make_env
from metta.errors import EnvError
from metta.processes.shared_arrays import Layout, arrays_over, num_bytes
from metta.user_code import file_in, said_where

Ended = list[tuple[int, dict[str, float]]]  # environment index and metrics of each episode that a step ended
STUCK = "gave an action mask that forbids every action"


@dataclass
class Arrays:
    """What all processes share. B = num_envs * num_agents rows, those of one environment together."""

    observations: np.ndarray  # [B, *observation_shape]
    final_observations: np.ndarray  # the same
    rewards: np.ndarray  # [B] float32
    terminated: np.ndarray  # [B] bool
    truncated: np.ndarray  # [B] bool
    actions: np.ndarray  # [B, *action_shape] int64 or float32
    next_seeds: np.ndarray  # [num_envs] int64: the seed of each environment's next episode, -1 for none

    @staticmethod
    def layout(spec: EnvSpec, num_envs: int) -> Layout:
        rows = num_envs * spec.num_agents
        observations = ((rows, *spec.observation_shape), np.dtype(spec.observation_dtype))
        flag = ((rows,), np.dtype(bool))
        return {
            "observations": observations,
            "final_observations": observations,
            "rewards": ((rows,), np.dtype(np.float32)),
            "terminated": flag,
            "truncated": flag,
            "actions": ((rows, *spec.action_shape), np.dtype(spec.action_dtype)),
            "next_seeds": ((num_envs,), np.dtype(np.int64)),
        }

    @classmethod
    def num_bytes(cls, spec: EnvSpec, num_envs: int) -> int:
        return num_bytes(cls.layout(spec, num_envs))

    @classmethod
    def over(cls, memory: Any, spec: EnvSpec, num_envs: int) -> "Arrays":
        """Lay the arrays over `memory`, a buffer of `num_bytes`."""
        return cls(**arrays_over(memory, cls.layout(spec, num_envs)))


class EnvGroup:
    """Steps some of the environments, one after the other in this process, on their rows of the shared arrays.

    first_env: what environment 0 is called in an error.
    """

    def __init__(self, spec: EnvSpec, arrays: Arrays, indices: range, first_env: int):
        self._env, self._arrays, self.indices, self._first_env = spec.env, arrays, indices, first_env
        self._envs = {index: make_env(spec.env) for index in indices}
        agents = spec.num_agents
        self._rows = {index: slice(index * agents, (index + 1) * agents) for index in indices}
        for index, made in self._envs.items():
            if isinstance(made, Adapter):
                made.require_like(spec)
            rows = self._rows[index]
            made.bind(arrays.observations[rows], arrays.rewards[rows], arrays.terminated[rows], arrays.truncated[rows])
        mine = slice(indices.start * agents, indices.stop * agents)
        self._terminated, self._truncated = arrays.terminated[mine], arrays.truncated[mine]
        self._done = np.zeros((len(indices), agents), bool)
        self._seeds = dict.fromkeys(indices, -1)
        self._actions = {index: arrays.actions[rows] for index, rows in self._rows.items()}

    def begin(self, indices: Iterable[int]) -> list[None]:
        """Begin the next episode of these environments, or leave them idle where there is none."""
        for index in indices:
            self._seeds[index] = int(self._arrays.next_seeds[index])
            if self._seeds[index] >= 0:
                try:
                    self._envs[index].reset(self._seeds[index])
                except (Exception, SystemExit) as error:
                    raise self._failure(index, error) from error
        return []

    def step(self) -> Ended:
        """Step each environment; one whose episode ends begins the next at once."""
        arrays = self._arrays
        for index, env in self._envs.items():
            if self._seeds[index] < 0:  # idle: what its last step left is read by now
                rows = self._rows[index]
                arrays.rewards[rows] = arrays.terminated[rows] = arrays.truncated[rows] = 0
                continue
            try:
                env.step(self._actions[index])
            except (Exception, SystemExit) as error:
                raise self._failure(index, error) from error
        np.logical_or(self._terminated, self._truncated, out=self._done.reshape(-1))
        if not self._done.any():
            return []
        ended: Ended = []
        for index in (np.flatnonzero(self._done.any(1)) + self.indices.start).tolist():
            rows = self._rows[index]
            self._arrays.final_observations[rows] = self._arrays.observations[rows]  # of agents that are done, at least
            if self._done[index - self.indices.start].all():
                ended.append((index, self._envs[index].metrics()))
        self.begin(index for index, _ in ended)
        return ended

    def replay(self, episodes: dict[int, np.ndarray]) -> list[np.ndarray]:
        """Step environments that just began through the actions `[steps, num_agents, ...]` of their episodes.

        Returns the returns so far, `[num_agents]` float64 of each; NaN where an episode ended too early.
        """
        return [self._replay_one(index, actions) for index, actions in episodes.items()]

    def _replay_one(self, index: int, actions: np.ndarray) -> np.ndarray:
        rows, env, arrays = self._rows[index], self._envs[index], self._arrays
        returns = np.zeros(rows.stop - rows.start)
        try:
            for step_actions in actions:
                arrays.actions[rows] = step_actions
                env.step(arrays.actions[rows])
                returns += arrays.rewards[rows]
                if (arrays.terminated[rows] | arrays.truncated[rows]).all():
                    return np.full_like(returns, np.nan)
        except (Exception, SystemExit) as error:
            raise self._failure(index, error) from error
        return returns

    def close(self) -> None:
        for env in self._envs.values():
            close_env(env, self._env)

    def _failure(self, index: int, error: BaseException) -> EnvError:
        where = f"environment {self._first_env + index} of env={self._env.short_name}"
        episode = f"failed in the episode of seed {self._seeds[index]}"
        return EnvError(f"{where} {episode}: {said_where(error, file_in(f'env={self._env.name}'))}")


def not_finite(what: str, array: np.ndarray) -> tuple[int, str] | None:
    """The first row with a number that is not finite, and how to say so; None where there is none."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return None
    place = tuple(np.argwhere(~np.isfinite(array))[0])
    return int(place[0]), f"gave {array[place]} in {what}"


def stuck(spec: EnvSpec, observations: np.ndarray) -> np.ndarray:
    """Whether the action mask of each row forbids every action, of which one must be taken; `[B]` bool."""
    starts = [0, *np.cumsum(spec.choices[:-1], dtype=int)]
    return np.logical_not(np.logical_or.reduceat(spec.mask_in(observations), starts, axis=1).all(axis=1))


def environments(env: EnvName, indices: range) -> str:
    """Name what a worker holds, for an error."""
    return f"environments {indices[0]} to {indices[-1]} of env={env.short_name}"


def set_up(
    memory_fd: int,
    connection: Connection,
    spec: EnvSpec,
    packed: str | None,
    num_envs: int,
    indices: range,
    first_env: int,
) -> EnvGroup:
    """Make a worker's EnvGroup. packed: what `by_value.pack` made of the environment."""
    unpack(packed)
    memory = mmap.mmap(memory_fd, Arrays.num_bytes(spec, num_envs))
    return EnvGroup(spec, Arrays.over(memory, spec, num_envs), indices, first_env)
