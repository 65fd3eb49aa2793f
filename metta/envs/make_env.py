"""From a name and settings to an environment. Importing this imports neither torch nor any environment's package."""

from typing import Any, Protocol

import numpy as np

from metta.envs.env_spec import EnvSpec
from metta.envs.mettagrid.games import GAMES


class Env(Protocol):
    """One environment with `spec.num_agents` agents, which writes its results into arrays given to `bind`.

    A row of each array belongs to one agent. `reset` and `step` must depend on nothing but the seed and the actions
    since: that is what makes episodes repeat.
    """

    spec: EnvSpec

    def bind(
        self, observations: np.ndarray, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> None:
        """observations `[num_agents, *shape]`, rewards float32, terminated and truncated bool `[num_agents]`."""

    def reset(self, seed: int) -> None:
        """Begin an episode; writes the first observations."""

    def step(self, actions: np.ndarray) -> None:
        """actions `[num_agents, *action_shape]`; writes all four arrays."""

    def metrics(self) -> dict[str, float]:
        """The environment's own statistics of the episode that just ended."""

    def render(self) -> Any: ...

    def close(self) -> None: ...


def make_env(name: str, settings: dict[str, Any] | None = None, render_mode: str | None = None) -> Env:
    """The environment of that name. UserError (one line) for an unknown name, a bad setting or an unfit space."""
    if name in GAMES:
        from metta.envs.mettagrid.env import MettaGridEnv

        return MettaGridEnv(name, settings or {}, render_mode)
    from metta.envs.gymnasium_env import GymnasiumEnv

    return GymnasiumEnv(name, settings or {}, render_mode)


def check_env(name: str, settings: dict[str, Any] | None = None) -> None:
    """UserError unless `name` is an environment that takes `settings`; quick, for it makes none."""
    if name in GAMES:
        GAMES[name].of(name, settings or {})
    else:
        from metta.envs.gymnasium_env import check_settings

        check_settings(name, settings or {})


def check_env_name(name: str) -> None:
    """UserError, with the nearest names, unless an environment of this name exists."""
    if name not in GAMES:
        from metta.envs.gymnasium_env import find_gymnasium_spec

        find_gymnasium_spec(name)
