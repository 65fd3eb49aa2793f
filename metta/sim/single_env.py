"""One environment outside of any VecEnv, to be stepped by hand and looked at, or through a recorded episode."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from metta.envs.env_group import STUCK, Arrays, not_finite, stuck
from metta.envs.make_env import Env
from metta.errors import EnvError
from metta.sim.recording import Recording
from metta.user_code import failing, file_in


class SingleEnv:
    """An environment and its arrays; a row of each belongs to one agent.

    It steps and sums exactly as VecEnv does, so that the same seed and actions give the same returns, bit for bit. And
    it refuses what VecEnv does: EnvError where the environment fails, or gives what no agent can take.
    """

    def __init__(self, env: Env):
        self.env = env
        self.num_agents = env.spec.num_agents
        arrays = Arrays.over(bytearray(Arrays.num_bytes(env.spec, 1)), env.spec, 1)
        env.bind(arrays.observations, arrays.rewards, arrays.terminated, arrays.truncated)
        self.observations = arrays.observations  # [num_agents, *shape]
        self.rewards = arrays.rewards  # [num_agents] float32, of the last step
        self.returns = np.zeros(self.num_agents)  # float64, so far
        self.starts = np.ones(self.num_agents, bool)  # as AgentPlayer.act wants them
        self.seed = self.steps = 0
        self._arrays = arrays

    def reset(self, seed: int) -> None:
        for array in (self.rewards, self._arrays.terminated, self._arrays.truncated, self.returns):
            array[:] = 0
        self.starts[:] = True
        self.seed, self.steps = seed, 0
        with self._failing():
            self.env.reset(seed)
        self._check()

    def step(self, actions: np.ndarray) -> None:
        """Step with actions `[num_agents, *action_shape]`."""
        self._arrays.actions[:] = actions
        with self._failing():
            self.env.step(self._arrays.actions)
        np.logical_or(self._arrays.terminated, self._arrays.truncated, out=self.starts)
        self.returns += self.rewards
        self.steps += 1
        self._check()

    def _failing(self) -> AbstractContextManager[None]:
        env = self.env.spec.env
        what = f"env={env.short_name} failed in the episode of seed {self.seed}"
        return failing(what, file_in(f"env={env.name}"), kind=EnvError)

    def _check(self) -> None:
        spec, where = self.env.spec, f"at step {self.steps} of the episode of seed {self.seed}"
        found = not_finite("a reward", self.rewards) or not_finite("an observation", self.observations)
        if found is None and spec.masked and not self.over and stuck(spec, self.observations).any():
            found = 0, STUCK
        if found is not None:
            raise EnvError(f"env={spec.env.short_name} {found[1]} {where}")

    def drawn(self) -> Any:
        """Draw the environment in the way of its render_mode."""
        with self._failing():
            return self.env.render()

    def picture(self) -> np.ndarray:
        """Draw an environment of render_mode "rgb_array" as uint8 `[height, width, 3]`."""
        with self._failing():
            drawn = np.asarray(given := self.env.render())
        shape = drawn.shape
        if drawn.size == 0 or len(shape) < 2 or shape[2:] not in ((), (3,), (4,)) or drawn.dtype.kind not in "buif":
            said = f"render gave {type(given).__name__} of shape {shape}, not a picture [height, width, 3]"
            raise EnvError(f"env={self.env.spec.env.short_name}: {said}")
        if drawn.dtype.kind == "f":  # MinAtar draws from 0 to 1
            drawn = drawn * 255
        return np.stack([drawn] * 3, -1).astype(np.uint8) if drawn.ndim == 2 else drawn[..., :3].astype(np.uint8)

    @property
    def over(self) -> bool:
        """Whether all agents are done."""
        return self.steps > 0 and bool(self.starts.all())


def replay_steps(single: SingleEnv, recording: Recording) -> Iterator[int]:
    """Replay the recording, yielding the step number at the start (0) and after each step."""
    single.reset(recording.seed)
    yield 0
    for actions in recording.actions:
        if single.over:
            return
        single.step(actions)
        yield single.steps


def difference(single: SingleEnv, recording: Recording) -> str | None:
    """Describe how the episode differs from its recording; None if length and every agent's return are equal."""
    length = len(recording.actions)
    if single.steps != length:
        return f"the recorded episode ended after {length} steps, this one after {single.steps}"
    if not single.over:
        return f"the recorded episode ended after {length} steps, this one goes on"
    differing = np.flatnonzero(single.returns != recording.returns)
    if len(differing) == 0:
        return None
    first = differing[0]
    whose = "the" if len(recording.returns) == 1 else f"agent {first}'s"
    more = f"; {len(differing)} agents' returns differ" if len(differing) > 1 else ""
    was, now = recording.returns[first], single.returns[first]
    return f"{whose} return was {was!s} when recorded, and is {now!s} now{more}"
