"""A PettingZoo ParallelEnv as an environment of all its possible agents, some of which may not be there."""

from typing import TYPE_CHECKING, Any

import numpy as np

from metta.envs.env_spec import EnvName
from metta.envs.made import Adapter, put_reward
from metta.envs.spaces import MASK
from metta.errors import UserError

if TYPE_CHECKING:
    from pettingzoo import AECEnv, ParallelEnv


class PettingZooEnv(Adapter):
    """One ParallelEnv. See `Env` for the methods.

    Row i belongs to `possible_agents[i]`. A row whose agent has not come yet, or has left, counts as terminated at each
    step and says so in its observation (EnvSpec.agents_vary); the episode ends when nobody is left. Who leaves in a
    step has its last observation after it.
    """

    agents_vary = True

    def __init__(self, made: "AECEnv | ParallelEnv", env: EnvName):
        self._env: Any = as_parallel(made, env)
        self._name = env
        self.names = list(getattr(self._env, "possible_agents", ()))
        if not self.names:
            raise UserError(f"env={env.short_name} has no possible_agents, which say how many agents there can be")
        self._read_spaces(env, *(self._common(kind) for kind in ("observation_space", "action_space")))

    def _common(self, kind: str) -> Any:
        """Return the space that all agents have."""
        space_of = getattr(self._env, kind)
        first, *others = self.names
        for name in others:
            if space_of(name) != space_of(first):
                two = f"{first} has {space_of(first)}, and {name} has {space_of(name)}"
                raise UserError(
                    f"env={self._name.short_name} has agents of different kinds, which one policy cannot play: "
                    f"of {kind.replace('_', ' ')}s {two}"
                )
        return space_of(first)

    def _infos_mask(self) -> bool:
        return any(MASK in info for info in self._begin(0)[1].values())

    def bind(
        self, observations: np.ndarray, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> None:
        self._rows, self._rewards, self._terminated, self._truncated = observations, rewards, terminated, truncated

    def reset(self, seed: int) -> None:
        observations, infos = self._begin(seed)
        self._present, self._over = list(self._env.agents), set[Any]()
        self._write(observations, infos)

    def step(self, actions: np.ndarray) -> None:
        acting, asked = self._present, self._env.agents
        chosen = {name: self._convert(actions[i : i + 1]) for i, name in enumerate(self.names) if name in asked}
        observations, rewards, terminations, truncations, infos = self._env.step(chosen)
        # Some environments leave those whose episode has ended among their agents.
        self._over |= {name for name in acting if terminations.get(name) or truncations.get(name)}
        self._over &= {*self._env.agents}
        self._present = present = [name for name in self._env.agents if name not in self._over]
        for i, name in enumerate(self.names):
            was = name in acting
            put_reward(self._rewards, i, rewards.get(name, 0) if was else 0)
            self._terminated[i] = not was or terminations.get(name, False)
            # Who is gone without a word has been cut off.
            self._truncated[i] = not self._terminated[i] and (truncations.get(name, False) or name not in present)
        if present and (self._terminated | self._truncated).all():  # the last one left as another came
            self._terminated[[self.names.index(name) for name in present]] = False
        self._write(observations, infos)

    def _write(self, observations: dict[Any, Any], infos: dict[Any, Any]) -> None:
        """Write a row for each agent: what it sees if it does, and whether it is there."""
        present = self._present
        for name, row in zip(self.names, self._rows, strict=True):
            row[:] = 1  # nothing is forbidden to who is not there
            if name in observations:
                observation = observations[name]
                mask = observation[MASK] if self._reader.gives_mask else infos.get(name, {}).get(MASK)
                self._reader.write(row, observation, mask if name in present else None)
            elif name in present:
                raise ValueError(f"gave no observation of {name}, which is there")
            row[-1] = name in present


def as_parallel(made: "AECEnv | ParallelEnv", env: EnvName) -> "ParallelEnv":
    """Return the environment as one whose agents act at once. UserError where they take turns."""
    from pettingzoo import ParallelEnv  # which sets environment variables when it is imported
    from pettingzoo.utils.conversions import aec_to_parallel

    if isinstance(made, ParallelEnv):
        return made
    try:
        return aec_to_parallel(made)
    except AssertionError as error:
        why = "its agents take turns, and PettingZoo's aec_to_parallel cannot make them act at once"
        raise UserError(
            f"env={env.short_name} cannot be trained: {why} (its metadata has no is_parallelizable)"
        ) from error
