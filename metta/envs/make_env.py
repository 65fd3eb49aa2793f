"""From a name and settings to an environment. Importing this imports neither torch nor any environment's package."""

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from metta.envs import places
from metta.envs.env_spec import WRAPPERS, EnvName, EnvSpec
from metta.envs.made import Made, close_env
from metta.envs.mettagrid.games import GAMES
from metta.envs.sources import Games, source_of
from metta.errors import UserError
from metta.user_code import failing, load_place

KINDS = "a gymnasium.Env, a PettingZoo ParallelEnv, a MettaGridConfig or metta's Env"


class Env(Protocol):
    """One environment with `spec.num_agents` agents, which writes its results into arrays given to `bind`.

    A row of each array belongs to one agent. `reset` and `step` must depend on nothing but the seed and the actions
    since: that is what makes episodes repeat.
    """

    @property
    def spec(self) -> EnvSpec:
        """Its name and spaces."""

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
    env = check_env(env)
    source, known = source_of(env)
    known = source.check(known)
    made = adapted(source.make(known, render_mode), known, render_mode)
    if known != env:
        vars(made)["spec"] = dataclasses.replace(made.spec, env=env)
    return made


@contextmanager
def probe(env: EnvName) -> Iterator[Env]:
    """Make the environment to look at, and close it."""
    made = make_env(env)
    try:
        yield made
    finally:
        close_env(made, env)


def spec_of(env: EnvName) -> EnvSpec:
    """Make the environment only to read its spec. UserError as from `make_env`."""
    with probe(env) as made:
        return made.spec


def is_mettagrid(env: EnvName) -> bool:
    """Tell whether it is played on MettaGrid's map; one of the user's own is made, to see. UserError as `make_env`."""
    from metta.envs.mettagrid.env import MettaGridEnv

    source, _ = source_of(env)
    if source is not places:
        return isinstance(source, Games)
    with probe(env) as made:
        return isinstance(made, MettaGridEnv)


def check_env(env: EnvName) -> EnvName:
    """Return the canonical name. UserError unless the environment exists and takes these settings; makes none.

    If a setting's default is known, `1` and `1.0` are one value, and the default is left out. A file's name has its
    whole path.
    """
    source, known = source_of(env)
    checked = source.check(known)
    if known == env:
        return checked
    # A suite's entry: the settings that the suite has are no part of its name, and those given stand against them.
    given = {key: checked.settings.get(key, value) for key, value in env.settings.items()}
    return EnvName(places.canonical(env.name), given)


def has_step_limit(name: str) -> bool:
    """Tell whether the episodes of a game of MettaGrid, or of an id of Gymnasium, have a step limit by default."""
    from metta.envs.gymnasium_ids import find_spec

    return name in GAMES or find_spec(name).max_episode_steps is not None


def adapted(made: Made, env: EnvName, render_mode: str | None) -> Env:
    """Adapt what was made, called `env`, by what it is; another kind of environment is another branch here.

    UserError where it is no environment, or has settings that are another kind's.
    """
    what = made.what
    if is_a(what, "gymnasium", "Env"):
        from metta.envs.gymnasium_env import GymnasiumEnv

        if env.wrappers and made.max_steps is not None:  # inside, so that they see the end
            from gymnasium.wrappers import TimeLimit

            return GymnasiumEnv(wrapped(TimeLimit(what, made.max_steps), env), env)
        return GymnasiumEnv(wrapped(what, env), env, made.max_steps)
    for key in (WRAPPERS, "max_episode_steps"):
        if key in env.settings:
            raise UserError(f"env.{key} is for a gymnasium.Env: {env.short_name} is a {type(what).__name__}")
    if is_a(what, "mettagrid.config.mettagrid_config", "MettaGridConfig"):
        from metta.envs.mettagrid.config_game import ConfigGame
        from metta.envs.mettagrid.env import MettaGridEnv

        return MettaGridEnv(env, render_mode, ConfigGame(env.short_name, what, made.of_seed))
    if is_a(what, "pettingzoo", "ParallelEnv") or is_a(what, "pettingzoo", "AECEnv"):
        from metta.envs.pettingzoo_env import PettingZooEnv

        return PettingZooEnv(what, env)
    if all(hasattr(what, name) for name in ("spec", "bind", "reset", "step", "metrics")):
        what.spec = dataclasses.replace(what.spec, env=env)
        return what
    raise UserError(f"env={env.short_name} gives {described(what)}, which is no environment: wanted {KINDS}")


def is_a(what: Any, module: str, name: str) -> bool:
    """isinstance, without importing a module that nobody has imported yet."""
    return module in sys.modules and isinstance(what, getattr(sys.modules[module], name))


def wrapped(made: Any, env: EnvName) -> Any:
    """The environment in the wrappers of env.wrappers=, the first innermost."""
    for place in env.wrappers:
        wrapper = load_place(f"env.{WRAPPERS}", place)
        with failing(f"env.{WRAPPERS}={place} failed", place.rpartition(":")[0]):
            made = wrapper(made)
        if not is_a(made, "gymnasium", "Env"):
            raise UserError(f"env.{WRAPPERS}={place} gives {described(made)}, not a gymnasium.Env")
    return made


def described(what: Any) -> str:
    return "None" if what is None else f"a {type(what).__name__}"
