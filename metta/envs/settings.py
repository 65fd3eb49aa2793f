"""Checking env.KEY=VALUE against the arguments of what makes the environment."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from metta.envs.env_spec import WRAPPERS, EnvName
from metta.errors import UserError
from metta.user_code import FORMS, place_of, resolved_place

NO_DEFAULT = inspect.Parameter.empty


def arguments_of(function: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """List the arguments of a class or function with their defaults; tell whether it takes any other."""
    parameters = inspect.signature(function).parameters
    named = {key: p.default for key, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def checked_settings(env: EnvName, defaults: Mapping[str, Any], takes_any: bool = False) -> EnvName:
    """Return the canonical name: settings of their defaults' types, defaults left out. UserError for one that is unfit.

    takes_any: settings that `defaults` has not are taken as they are.
    """
    name = env.short_name
    settings = {}
    for key, value in env.settings.items():
        if key == WRAPPERS and key not in defaults:
            settings[key] = wrapper_places(value)
            continue
        if key not in defaults and not takes_any:
            near = difflib.get_close_matches(key, [*defaults, WRAPPERS], 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(
                f"env.{key} is not a setting of {name}{hint}; it has {', '.join(sorted(defaults)) or 'none'}"
            )
        default = defaults.get(key, NO_DEFAULT)
        if key == "max_episode_steps":
            wanted = "" if type(value) is int and value >= 1 else "a whole number from 1 on"
        else:
            wanted = "" if value is None else misfit(value, default)
        if wanted:
            raise UserError(f"env.{key} of {name} must be {wanted}, not {value!r}")
        value = converted(value, default)
        if type(value) is not type(default) or repr(value) != repr(default):
            settings[key] = value
    if missing := [key for key, default in defaults.items() if default is NO_DEFAULT and key not in settings]:
        raise UserError(f"env={name} needs {' '.join(f'env.{key}=' for key in missing)}")
    return EnvName(env.name, settings)


def wrapper_places(value: Any) -> str:
    """The places of one or several functions, given as text or, from Python, as one or several functions.

    UserError for anything else.
    """
    given = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(each, str) or hasattr(each, "__qualname__") for each in given):
        raise UserError(f"env.{WRAPPERS}={value}: expected functions, {FORMS.format('f')}, comma between")
    return ",".join(resolved_place(each) if isinstance(each, str) else place_of(each) for each in given)


def misfit(value: Any, default: Any) -> str:
    """Say what a setting's value must be, judged by its default; "" if it fits or the default does not tell."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        return "" if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if isinstance(default, str):
        return "" if isinstance(value, str) else "text"
    if isinstance(default, tuple | list | dict) and isinstance(value, str):
        return f"a {type(default).__name__}, as in {default}"
    return ""


def converted(value: Any, default: Any) -> Any:
    """Convert a number to its default's type: 1 and 1.0 are one setting."""
    if {type(value), type(default)} == {int, float}:
        with suppress(OverflowError, ValueError):  # infinity, NaN, and whole numbers beyond all floats
            if (number := type(default)(value)) == value:
                return number
    return value
