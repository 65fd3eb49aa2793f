"""From `key=value` arguments to a configuration, by chz; a user's mistake becomes one line."""

import inspect
import math
import textwrap
import types
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_origin

import chz
from chz.blueprint import Castable, InvalidBlueprintArg, MissingBlueprintArg

T = TypeVar("T")

SETTINGS = "env_settings"  # the field in which env.KEY=VALUE arguments are collected
HELP = ("--help", "-h", "help")
WIDTH, INDENT = 80, 24  # of --help, in columns
TYPES: dict[Any, tuple[str, str]] = {
    bool: ("true|false", "true or false"),
    int: ("INT", "a whole number, as in 2_000_000"),
    float: ("NUM", "a number"),
    str: ("TEXT", "text"),
}


class UsageError(Exception):
    """A user's mistake: one line that says what is wrong, where, and what exists instead. Exit status 2."""


def parse(config_class: type[T], argv: Sequence[str], prog: str) -> tuple[T, frozenset[str]]:
    """The configuration, and the keys as they were given ("seed", "env.max_steps").

    UsageError for anything but the class's keys with values that fit them; --help prints them and exits with 0.
    """
    if any(argument in HELP for argument in argv):
        print(help_text(config_class, prog))
        raise SystemExit(0)
    fields = _fields(config_class)
    values = _split(argv)
    typed: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for name, value in values.items():
        group, _, setting = name.partition(".")
        if name in fields:
            typed[name] = Castable(value)
        elif group == "env" and setting.isidentifier() and SETTINGS in chz.chz_fields(config_class):
            settings[setting] = literal(value)
        else:
            raise UsageError(f"unknown key {name}=: {_nearest(name, fields, prog)}")
    if settings:
        typed[SETTINGS] = settings
    return _build(config_class, typed, values), frozenset(values)


def _fields(config_class: type) -> dict[str, Mapping[str, Any]]:
    """The keys, each with its type and what --help says of it: doc, default (absent: required), unset."""
    fields = chz.chz_fields(config_class).items()
    return {name: {"type": field.final_type, **field.metadata} for name, field in fields if field.metadata is not None}


def _split(argv: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for argument in argv:
        name, equals, value = argument.partition("=")
        if name.startswith("-"):
            raise UsageError(f"{argument}: keys have no dashes, as in seed=3")
        if not equals or not name:
            raise UsageError(f"{argument or 'an empty argument'}: arguments are key=value, as in seed=3")
        if not value:
            raise UsageError(f"{name}= has no value")
        if name in values:
            raise UsageError(f"{name}= is given twice: {values[name]} and {value}")
        values[name] = value
    return values


def literal(text: str) -> bool | int | float | str:
    """The value of env.KEY=text: true or false, a whole number, a finite number, else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            if math.isfinite(number := kind(text)):
                return number
        except (ValueError, OverflowError):
            pass
    return text


def _build(config_class: type[T], typed: dict[str, Any], values: dict[str, str]) -> T:
    """Let chz make it; what chz says in many lines is said in one."""
    fields = _fields(config_class)
    try:
        return chz.Blueprint(config_class).apply(typed).make()
    except InvalidBlueprintArg:
        for name in [name for name in values if name in fields]:
            try:
                chz.Blueprint(config_class).apply({name: typed[name]}).make()
            except InvalidBlueprintArg:
                raise UsageError(f"{name}={values[name]}: not {_kind(fields[name]['type'])[1]}") from None
            except (MissingBlueprintArg, ValueError):
                pass
        raise
    except MissingBlueprintArg:
        name = next(name for name in fields if "default" not in fields[name] and name not in values)
        raise UsageError(f"missing {name}=: {fields[name]['doc']}") from None
    except ValueError as error:  # from a check of the class
        raise UsageError(str(error)) from None


def _kind(annotation: Any) -> tuple[str, str]:
    """A type as --help shows it ("INT"), and in words ("a whole number"); `int | None` is an int."""
    if isinstance(annotation, types.UnionType):
        return _kind(next(kind for kind in get_args(annotation) if kind is not type(None)))
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation)), "one of " + ", ".join(get_args(annotation))
    return TYPES[annotation]


def _nearest(name: str, known: Iterable[str], prog: str) -> str:
    """What the user may have meant by `name`: by spelling, or by its initials (lr)."""
    known = list(known)
    found = get_close_matches(name, known, n=1) or [k for k in known if name == "".join(w[0] for w in k.split("_"))]
    return f"did you mean {found[0]}?" if found else f"`{prog} --help` lists the keys"


def help_text(config_class: type, prog: str) -> str:
    """All keys with type, meaning and [default], in WIDTH columns."""
    fields = _fields(config_class)
    required = "".join(f" {name}={_kind(field['type'])[0]}" for name, field in fields.items() if "default" not in field)
    summary = (inspect.getdoc(config_class) or "").partition("\n")[0]
    lines = [f"usage: {prog}{required} key=value ...", "", *textwrap.wrap(summary, WIDTH), ""]
    for name, field in fields.items():
        lines += _help_entry(f"{name}={_kind(field['type'])[0]}", f"{field['doc']} [{_default(field)}]")
        if name == "env" and SETTINGS in chz.chz_fields(config_class):
            lines += _help_entry("env.KEY=VALUE", "an argument of the environment, as in env.max_steps=100")
    return "\n".join(lines)


def _help_entry(left: str, right: str) -> list[str]:
    lines = textwrap.wrap(right, WIDTH - INDENT)
    if len(left) + 4 <= INDENT:
        return [f"  {left:<{INDENT - 2}}{lines[0]}", *(" " * INDENT + line for line in lines[1:])]
    return [f"  {left}", *(" " * INDENT + line for line in lines)]


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return "required"
    default = field["default"]
    if default is None:
        return str(field["unset"])
    return str(default).lower() if isinstance(default, bool) else str(default)
