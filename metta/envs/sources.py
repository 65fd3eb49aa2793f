"""Where environments come from: metta's games, places in the user's own code, ids registered with Gymnasium."""

from typing import Protocol

from metta.envs import places
from metta.envs.env_spec import EnvName
from metta.envs.made import Made
from metta.envs.mettagrid.games import GAMES
from metta.user_code import import_place


class Source(Protocol):
    """Each is a module or a class with these functions."""

    def check(self, env: EnvName, /) -> EnvName:
        """Return the canonical name. UserError unless there is such an environment and it takes these settings."""

    def make(self, env: EnvName, render_mode: str | None, /) -> Made:
        """Make the environment of a canonical name. UserError if that fails."""

    def has_step_limit(self, name: str, /) -> bool:
        """Tell whether the episodes have a step limit by default."""


class Games:
    """The games of MettaGrid that metta brings."""

    def check(self, env: EnvName) -> EnvName:
        return EnvName(env.name, GAMES[env.name].of(env).settings())

    def make(self, env: EnvName, render_mode: str | None) -> Made:
        from metta.envs.mettagrid.env import MettaGridEnv

        return Made(MettaGridEnv(env, render_mode))

    def has_step_limit(self, name: str) -> bool:
        return True


def source_of(env: EnvName) -> tuple[Source, EnvName]:
    """Choose by the name; with the name and settings by which that source knows it, as a suite has them."""
    if env.name in GAMES:
        return Games(), env
    found = places.PLACE.fullmatch(env.name)
    if found is None or (found["entry"] is None and is_registered(found["module"], found["name"])):
        from metta.envs import gymnasium_ids

        return gymnasium_ids, env
    thing, settings = places.load(env.name)
    if isinstance(thing, EnvName):
        return source_of(thing.with_({**settings, **env.settings}))
    return places, EnvName(env.name, {**settings, **env.settings})


def is_registered(module: str, name: str) -> bool:
    """Tell whether `module:name` is an id that the module has registered with Gymnasium, and not a name in it."""
    import gymnasium

    if module != "__main__":
        try:
            has = hasattr(import_place(module), name)
        except Exception:  # noqa: BLE001 (whoever loads it says what is wrong)
            return False
        if has:
            return False
    return name in gymnasium.registry
