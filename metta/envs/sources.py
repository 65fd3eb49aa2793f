"""Where environments come from: metta's games, places in the user's own code, ids registered with Gymnasium."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from metta.envs import places
from metta.envs.env_spec import EnvName
from metta.envs.made import Made
from metta.envs.mettagrid.games import GAMES
from metta.errors import UserError
from metta.user_code import GIVEN, found_place, import_place, split_place


class Source(Protocol):
    """Each is a module or a class with these functions."""

    def check(self, env: EnvName, /) -> EnvName:
        """Return the canonical name. UserError unless there is such an environment and it takes these settings."""

    def make(self, env: EnvName, render_mode: str | None, /) -> Made:
        """Make the environment of a canonical name. UserError if that fails."""


class Games:
    """The games of MettaGrid that metta brings."""

    def check(self, env: EnvName) -> EnvName:
        return EnvName(env.name, GAMES[env.name].of(env).settings())

    def make(self, env: EnvName, render_mode: str | None) -> Made:
        from metta.envs.mettagrid.env import MettaGridEnv

        return Made(MettaGridEnv(env, render_mode))


def source_of(env: EnvName, ways: frozenset[str] = frozenset()) -> tuple[Source, EnvName]:
    """Choose by the name; with the name and settings by which that source knows it, as a suite has them.

    ways: the suites' entries that led to it. UserError where it is one of them.
    """
    if env.name in GAMES:
        return Games(), env
    found = places.PLACE.fullmatch(env.name)
    if found is None and ".py:" in f"{env.name}:":
        split_place("env", env.name)
    if found is None or is_registered(found):
        from metta.envs import gymnasium_ids

        return gymnasium_ids, env
    thing, settings = places.load(env.name)
    if isinstance(thing, EnvName):
        if (way := places.canonical(env.name)) in ways:
            raise UserError(f"env={env.short_name} leads to itself")
        return source_of(thing.with_({**settings, **env.settings}), ways | {way})
    return places, EnvName(env.name, {**settings, **env.settings})


def members(env: EnvName) -> list[EnvName]:
    """List the environments of a suite, each by its name in it, with the given settings; of any other env, itself."""
    found = places.PLACE.fullmatch(env.name)
    if found is None or found["entry"] is not None or env.name in GIVEN or is_registered(found):
        return [env]
    suite = places.load_thing(env.name)
    return [EnvName(f"{env.name}/{name}", env.settings) for name in suite] if isinstance(suite, Mapping) else [env]


def is_registered(found: re.Match[str]) -> bool:
    """Tell whether `module:name` is an id that the module has registered with Gymnasium, and not a name in it."""
    import gymnasium

    with suppress(Exception, SystemExit):  # whoever loads it says what is wrong
        if found["module"] != "__main__" and hasattr(import_place(found["module"]), found["name"]):
            return False
    return found.string.rpartition(":")[2] in gymnasium.registry


def code_places(env: EnvName) -> list[str]:
    """The places of the user's own code that the environment is made of: its own, a suite's entry's, its wrappers'."""
    _, known = source_of(env)
    found = filter(None, map(places.PLACE.fullmatch, dict.fromkeys((env.name, known.name, *known.wrappers))))
    own = [f"{place['module']}:{place['name']}" for place in found]
    return [place for place in own if place in GIVEN or ".py:" in found_place(place)]
