"""From a name and settings to an environment. Importing this imports neither torch nor any environment's package."""

from typing import Any, Protocol

import numpy as np

from metta.envs.env_spec import EnvName, EnvSpec
from metta.envs.mettagrid.games import GAMES


class Env(Protocol):
    """One environment with `spec.num_agents` agents, which writes its results into arrays given to `bind`.

    A row of each array belongs to one agent. `reset` and `step` must depend on nothing but the seed and the actions
    since: that is what makes episodes repeat.
    """

    spec: EnvSpec

    @property
    def metadata(self) -> dict[str, Any]:
        """Gymnasium's: what `render_modes` there are, and `render_fps`."""

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


def make_env(env: EnvName, render_mode: str | None = None) -> Env:
    """Make the environment. UserError (one line) for an unknown name, a bad setting or an unfit space."""
    if env.name in GAMES:
        from metta.envs.mettagrid.env import MettaGridEnv

        return MettaGridEnv(env, render_mode)
    from metta.envs.gymnasium_env import GymnasiumEnv

    return GymnasiumEnv(env, render_mode)


def spec_of(env: EnvName) -> EnvSpec:
    """Make the environment only to read its spec. UserError as from `make_env`."""
    made = make_env(env)
    made.close()
    return made.spec


def check_env(env: EnvName) -> EnvName:
    """Return the canonical name. UserError unless the environment exists and takes these settings; makes none.

    If a setting's default is known, `1` and `1.0` are one value, and the default is left out.
    """
    if env.name in GAMES:
        return EnvName(env.name, GAMES[env.name].of(env).settings())
    from metta.envs.gymnasium_env import check_gymnasium

    return check_gymnasium(env)[1]


def has_step_limit(name: str) -> bool:
    """Tell whether the episodes have a step limit by default."""
    if name in GAMES:
        return True
    from metta.envs.gymnasium_env import find_gymnasium_spec

    return find_gymnasium_spec(name).max_episode_steps is not None
