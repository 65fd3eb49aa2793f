"""Many copies of an environment in lockstep, in this process or in workers. An episode is a seed and its actions."""

import mmap
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np

from metta.envs.action_log import ActionLog
from metta.envs.by_value import pack
from metta.envs.env_group import STUCK, Arrays, EnvGroup, environments, not_finite, set_up, stuck
from metta.envs.env_spec import EnvSpec
from metta.errors import EnvError, UserError
from metta.processes.shared_arrays import shared_memory_file, shares
from metta.processes.worker import Worker, end_workers

SeedOf = Callable[[int, int], int | None]  # of environment and episode; None: no episode


@dataclass(frozen=True)
class EpisodeSeeds:
    """Training's seeds: every episode of every environment has its own, derived from the run's."""

    seed: int

    def __call__(self, env_index: int, episode_index: int) -> int | None:
        sequence = np.random.SeedSequence((self.seed, env_index, episode_index))
        return int(sequence.generate_state(1)[0]) & 0x7FFFFFFF


@dataclass(frozen=True)
class DealtSeeds:
    """Evaluation's seeds: environment i plays one episode, of seeds[i], and idles then; beyond the seeds at once.

    Dealt beforehand, so that short episodes are not counted more often than long ones.
    """

    seeds: Sequence[int]

    def __call__(self, env_index: int, episode_index: int) -> int | None:
        return self.seeds[env_index] if episode_index == 0 and env_index < len(self.seeds) else None


@dataclass
class Episode:
    """A finished episode."""

    env_index: int
    episode_index: int
    seed: int
    length: int  # steps
    returns: np.ndarray  # [num_agents] float64: sums of rewards
    metrics: dict[str, float]  # the environment's own statistics
    actions: np.ndarray  # [length, num_agents, *action_shape]: with the seed, the episode again
    took_part: np.ndarray  # [num_agents] bool: the agent was there at some time

    @property
    def mean_return(self) -> float:
        """Over the agents that took part."""
        return float(self.returns[self.took_part].mean())


class VecEnv:
    """`num_envs` copies of the environment spec.env, each playing one episode after the other.

    Row b = env_index * num_agents + agent_index of each array belongs to one agent. The arrays are overwritten by every
    step. In rows whose episode just ended, `observations` hold the first observation of the next episode already, and
    `final_observations` the last one of the episode that ended, as in rows whose agent is done before the others. An
    episode ends when all its agents are done.

    `episode_seeds(first_env + env_index, episode_index)` gives each episode's seed, or None: that environment idles
    from then on (`active` is False, its rewards and flags are 0). `num_workers` processes help this one to step the
    environments, each with an equal share. That changes the speed, never a result.

    Raises UserError where the environment cannot be made, and EnvError where it, or a worker, fails later.
    """

    def __init__(self, spec: EnvSpec, num_envs: int, episode_seeds: SeedOf, num_workers: int = 0, first_env: int = 0):
        if num_envs < 1 or num_workers < 0:
            raise UserError(f"num_envs={num_envs} must be at least 1, and num_workers={num_workers} at least 0")
        self.spec = spec
        self.num_envs, self.num_agents, self.first_env = num_envs, spec.num_agents, first_env
        self.batch_size = num_envs * self.num_agents
        self.episode_seeds = episode_seeds
        self._workers: list[Worker] = []
        mine, *self._shares = shares(num_envs, min(num_workers, num_envs - 1) + 1)
        num_bytes = Arrays.num_bytes(spec, num_envs)
        with shared_memory_file(num_bytes) as file:
            self._arrays = Arrays.over(mmap.mmap(file.fileno(), num_bytes), spec, num_envs)
            self._group = EnvGroup(spec, self._arrays, mine, first_env)
            self._finalizer = weakref.finalize(self, partial(close, self._group, self._workers))
            self._start_workers(file)
        self.observations = self._arrays.observations
        self.final_observations = self._arrays.final_observations
        self.rewards = self._arrays.rewards
        self.terminated = self._arrays.terminated
        self.truncated = self._arrays.truncated
        self.active = np.zeros(num_envs, bool)
        self._seeds = np.full(num_envs, -1)
        self._starts = np.zeros(num_envs, np.int64)  # the step at which each unfinished episode began
        self._episode_index = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(self.batch_size)
        self._took_part = np.ones(self.batch_size, bool)
        self._log_dtype = np.min_scalar_type(max(spec.choices) - 1) if spec.choices else self._arrays.actions.dtype

    def _start_workers(self, file: Any) -> None:
        if not self._shares:
            return
        setup = {
            "spec": self.spec,
            "packed": pack(self.spec.env),
            "num_envs": self.num_envs,
            "first_env": self.first_env,
        }
        try:
            for indices in self._shares:
                numbers = range(self.first_env + indices.start, self.first_env + indices.stop)
                holds = environments(self.spec.env, numbers)
                self._workers.append(Worker(holds, file, set_up, **setup, indices=indices))
            for worker in self._workers:
                worker.receive()
        except BaseException:
            self.close()
            raise

    def reset(self, episode_seeds: SeedOf | None = None) -> np.ndarray:
        """Begin episode 0 of every environment, with these seeds from now on if given; returns `observations`."""
        self.episode_seeds = episode_seeds or self.episode_seeds
        self._log = ActionLog(self._steps(0))
        self.rewards[:] = 0
        self._episode_index[:] = 0
        self._begin(range(self.num_envs))
        return self.observations

    def step(self, actions: np.ndarray) -> list[Episode]:
        """Step every environment with actions `[B, *action_shape]`; returns the episodes that ended."""
        assert actions.shape == self._arrays.actions.shape
        self._arrays.actions[:] = actions
        self._log.append(self._arrays.actions)
        for worker in self._workers:
            worker.step()
        ended = self._group.step()
        for worker in self._workers:
            ended += worker.receive()
        self._require_finite("a reward", self.rewards)
        if ended:
            self._require_finite("an observation", self.final_observations)
        self._returns += self.rewards
        episodes = [self._finish(index, metrics) for index, metrics in ended]
        if ended:
            self._log.drop(int(self._starts.min(initial=self._log.next_step, where=self.active)))
        self._check_observations()
        return episodes

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to resume at this step, as plain arrays."""
        starts = np.where(self.active, self._starts, self._log.next_step)
        return {
            "episode_index": self._episode_index.copy(),
            "seeds": self._seeds.copy(),
            "actions": [self._log.since(start, self._rows(index)) for index, start in enumerate(starts)],
            "returns": self._returns.copy(),
            "observations": self.observations.copy(),
            "terminated": self.terminated.copy(),
            "truncated": self.truncated.copy(),
            **({"took_part": self._took_part.copy()} if self.spec.agents_vary else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> list[int]:
        """Replay the unfinished episodes up to the step of `state_dict`.

        Returns the environments whose observation or return so far came out differently: they do not reproduce, and
        begin their next episode instead. `rewards` and `final_observations` are not restored.
        """
        if len(state["seeds"]) != self.num_envs:
            raise UserError(f"the saved state is of num_envs={len(state['seeds'])}, this is num_envs={self.num_envs}")
        steps = self._steps(max(map(len, state["actions"])))
        for index, actions in enumerate(state["actions"]):
            steps[len(steps) - len(actions) :, self._rows(index)] = actions
        self._log = ActionLog(steps)
        self._episode_index[:] = state["episode_index"]
        self._arrays.next_seeds[:] = state["seeds"]
        everywhere = dict(enumerate(state["actions"]))
        self._call("begin", everywhere)
        self._returns[:] = np.concatenate(self._call("replay", everywhere))
        for index, actions in enumerate(state["actions"]):
            self._began(index)
            self._starts[index] -= len(actions)
        differing = [index for index in np.flatnonzero(self.active).tolist() if not self._came_back(index, state)]
        for name in ("observations", "terminated", "truncated"):
            getattr(self, name)[:] = state[name]
        self._took_part = state.get("took_part", self._took_part).copy()
        self._episode_index[differing] += 1
        self._begin(differing)
        return differing

    def close(self) -> None:
        """Close the environments and end the worker processes. Happens by itself when the VecEnv is collected."""
        self._finalizer()

    def _begin(self, indices: Sequence[int]) -> None:
        """Begin the episodes `_episode_index` of these environments, whatever they were at."""
        for index in indices:
            self._set_next_seed(index, self._episode_index[index])
        self._call("begin", dict.fromkeys(indices))
        for index in indices:
            for array in (self._returns, self.terminated, self.truncated):
                array[self._rows(index)] = 0
            self._took_part[self._rows(index)] = not self.spec.agents_vary
            self._began(index)
        self._check_observations()

    def _began(self, index: int) -> None:
        """Note that environment `index` has begun the episode `_episode_index[index]`."""
        self._seeds[index] = self._arrays.next_seeds[index]
        self.active[index] = self._seeds[index] >= 0
        self._starts[index] = self._log.next_step
        self._set_next_seed(index, self._episode_index[index] + 1)

    def _steps(self, count: int) -> np.ndarray:
        """Actions of so many steps, as they are remembered."""
        return np.zeros((count, *self._arrays.actions.shape), self._log_dtype)

    def _require_finite(self, what: str, array: np.ndarray) -> None:
        """Raise EnvError at a number that is not finite: one would spoil agent, statistics and checkpoints for good."""
        if (found := not_finite(what, array)) is not None:
            self._fail(found[0] // self.num_agents, found[1])

    def _check_observations(self) -> None:
        """Note which agents are there. EnvError also at an action mask that forbids everything: one must be taken."""
        if self.spec.agents_vary:
            self._took_part |= self.spec.present_in(self.observations)
        self._require_finite("an observation", self.observations)
        if not self.spec.masked:
            return
        rows = stuck(self.spec, self.observations)
        envs = self.active & rows.reshape(self.num_envs, self.num_agents).any(1)
        if envs.any():
            self._fail(int(envs.argmax()), STUCK)

    def _fail(self, index: int, how: str) -> NoReturn:
        which = f"environment {self.first_env + index} of env={self.spec.env.short_name}"
        step = self._log.next_step - self._starts[index]
        raise EnvError(f"{which} {how} at step {step} of the episode of seed {self._seeds[index]}")

    def _finish(self, index: int, metrics: dict[str, float]) -> Episode:
        """Collect the episode that environment `index` just ended; it has begun the next already."""
        rows, seed, number = self._rows(index), int(self._seeds[index]), int(self._episode_index[index])
        actions = self._log.since(self._starts[index], rows)
        returns, took_part = self._returns[rows].copy(), self._took_part[rows].copy()
        episode = Episode(index, number, seed, len(actions), returns, metrics, actions, took_part)
        self._returns[rows] = 0
        self._took_part[rows] = not self.spec.agents_vary
        self._episode_index[index] += 1
        self._began(index)
        return episode

    def _set_next_seed(self, index: int, episode_index: int) -> None:
        seed = self.episode_seeds(self.first_env + index, int(episode_index))
        self._arrays.next_seeds[index] = -1 if seed is None else seed

    def _came_back(self, index: int, state: dict[str, Any]) -> bool:
        rows = self._rows(index)
        pairs = ((self.observations, state["observations"]), (self._returns, state["returns"]))
        return all(mine[rows].tobytes() == theirs[rows].tobytes() for mine, theirs in pairs)

    def _rows(self, index: int) -> slice:
        return slice(index * self.num_agents, (index + 1) * self.num_agents)

    def _call(self, method: str, arguments: dict[int, Any]) -> list[Any]:
        """Call a method of each EnvGroup with its share of `arguments`, by environment; answers in their order."""
        for worker, indices in zip(self._workers, self._shares, strict=True):
            worker.send(method, self._share(arguments, indices))
        mine = getattr(self._group, method)(self._share(arguments, self._group.indices))
        return mine + [answer for worker in self._workers for answer in worker.receive()]

    @staticmethod
    def _share(arguments: dict[int, Any], indices: range) -> dict[int, Any]:
        return {index: value for index, value in arguments.items() if index in indices}


def close(group: EnvGroup, workers: list[Worker]) -> None:
    for worker in workers:
        worker.hang_up()
    group.close()
    end_workers(workers)
