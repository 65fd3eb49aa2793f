"""Environments of the user's own: `path/to/file.py:Name`, `package.module:Name`, `suite.py:SUITE/name`."""

import copy
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from metta.envs.env_spec import WRAPPERS, EnvName, split_label
from metta.envs.made import Made
from metta.envs.settings import NO_DEFAULT, arguments_of, checked_settings
from metta.errors import UserError, enumeration
from metta.user_code import failing, found_place, load_place

PLACE = re.compile(r"(?P<module>.+?\.py|[\w.]+):(?P<name>[\w.]+)(?:/(?P<entry>.+))?", re.DOTALL)
MAX_STEPS = "max_episode_steps"


def check(env: EnvName) -> EnvName:
    """Return the canonical name. UserError unless the place exists and takes these settings, by its signature."""
    defaults, takes_any = parameters_of(load(env.name)[0])
    if defaults.get("render_mode") is NO_DEFAULT:
        defaults["render_mode"] = None
    if defaults.get("seed") is NO_DEFAULT:
        del defaults["seed"]
    return checked_settings(EnvName(canonical(env.name), env.settings), {MAX_STEPS: None, **defaults}, takes_any)


def make(env: EnvName, render_mode: str | None) -> Made:
    """Make what the place names. UserError if that fails."""
    (thing, _), settings = load(env.name), dict(env.settings)
    parameters, _ = parameters_of(thing)
    settings.pop(WRAPPERS, None)
    max_steps = None if MAX_STEPS in parameters else settings.pop(MAX_STEPS, None)
    of_seed: Callable[[int], Any] | None = None
    if "render_mode" in parameters and render_mode is not None:
        settings["render_mode"] = render_mode
    elif parameters.get("render_mode") is NO_DEFAULT:
        settings.setdefault("render_mode", None)
    if "seed" in parameters and "seed" not in settings:

        def of_seed(seed: int) -> Any:
            return called(env, thing, {**settings, "seed": seed})

        if parameters["seed"] is NO_DEFAULT:
            settings["seed"] = 0
    made = called(env, thing, settings)
    if render_mode is not None and "render_mode" not in parameters:
        with suppress(AttributeError):  # where a function does not hand it on, most environments look here
            made.unwrapped.render_mode = render_mode
    return Made(made, max_steps, of_seed)


def called(env: EnvName, thing: Any, settings: dict[str, Any]) -> Any:
    """Call the class or function; copy what is an environment already, for several are needed."""
    with failing(f"env={env.short_name} cannot be made", PLACE.fullmatch(env.name)["module"]):  # type: ignore[index]
        return thing(**copy.deepcopy(settings)) if callable(thing) else copy.deepcopy(thing)


def parameters_of(thing: Any) -> tuple[dict[str, Any], bool]:
    """List the settings of a class or function with their defaults; tell whether it takes any other."""
    if not callable(thing):
        return {}, False
    try:
        return arguments_of(thing)
    except ValueError:  # written in C, without a signature
        return {}, True


def canonical(name: str) -> str:
    """The name with the whole path of its file."""
    found = PLACE.fullmatch(name)
    assert found is not None
    entry = "" if found["entry"] is None else f"/{found['entry']}"
    return found_place(f"{found['module']}:{found['name']}") + entry


def load(name: str) -> tuple[Any, dict[str, Any]]:
    """Load what the place names, and the settings that a suite has for it. UserError for a suite as a whole."""
    found = PLACE.fullmatch(name)
    assert found is not None
    place, entry = f"{found['module']}:{found['name']}", found["entry"]
    thing = load_thing(place)
    if entry is None:
        if isinstance(thing, Mapping):
            raise UserError(
                f"env={name} is a suite, which `metta sim` plays; one of it is env={name}/{next(iter(thing))}"
            )
        return thing, {}
    if not isinstance(thing, Mapping):
        raise UserError(f"env={name}: {place} is no suite: wanted a dict of names to environments")
    if entry not in thing:
        raise UserError(f"env={name}: no {entry} in {place}; it has {enumeration([*thing])}")
    return entry_of(thing[entry], name, Path(found["module"]).parent)


def load_thing(place: str) -> Any:
    """Load an environment or a suite. UserError for a suite of none, or with a name that is none or another's."""
    thing = load_place("env", place, looks_like_one, "environment")
    if isinstance(thing, Mapping):
        if not thing:
            raise UserError(f"env={place} is a suite without environments")
        for name in thing:
            if not isinstance(name, str):
                raise UserError(f"env={place}: names in a suite are text, not {name!r}")
            if end := split_label(name)[1]:
                raise UserError(f"env={place}: a name in a suite cannot end in {end!r}, as {name!r}: scores' names do")
    return thing


def entry_of(entry: Any, name: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Read an entry of a suite: an environment, or a pair of it and its settings. Files are looked for beside it."""
    env, settings = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, {})
    if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
        raise UserError(f"env={name}: wanted an environment, or a pair of it and a dict of its settings")
    if isinstance(env, str):
        place = PLACE.fullmatch(env)
        beside = place is not None and place["module"].endswith(".py") and folder / place["module"]
        env = EnvName(f"{folder}/{env}" if beside and beside.is_file() else env)
    return env, dict(settings)


def looks_like_one(value: Any) -> bool:
    return callable(value) or isinstance(value, Mapping)
