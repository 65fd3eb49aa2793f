"""From `key=value` arguments to a configuration (metta/keys.py); a user's mistake becomes one line."""

import ast
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field
from difflib import get_close_matches
from typing import Any, TypeVar

from metta.errors import UserError
from metta.keys import Config, keys, kinds, read, type_text

T = TypeVar("T", bound=Config)

SETTINGS = "env_settings"  # the field in which env.KEY=VALUE arguments are collected
HELP = ("--help", "-h", "help")
WIDTH, INDENT = 80, 24  # of --help, in columns


def parse(
    config_class: type[T], argv: Sequence[str], prog: str, notes: Callable[[], str] = str
) -> tuple[T, frozenset[str]]:
    """Parse arguments to a configuration and the keys that were given ("seed", "env.max_steps").

    UserError for an unknown, repeated, missing or mistyped key; --help prints the keys, and `notes` below, and
    exits with 0.
    """
    if any(argument in HELP for argument in argv):
        print("\n\n".join(filter(None, (help_text(config_class, prog), notes()))))
        raise SystemExit(0)
    fields = keys(config_class)
    given = _split(argv)
    values: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for name, text in given.items():
        group, _, setting = name.partition(".")
        if name in fields:
            values[name] = text
        elif group == "env" and setting.isidentifier() and SETTINGS in kinds(config_class):
            settings[setting] = literal(text)
        else:
            raise UserError(f"unknown key {name}=: {_nearest(name, fields, prog)}")
    values = {name: read(config_class, name, text) for name, text in values.items()}
    for name, field in fields.items():
        if field.default is MISSING and name not in values:
            raise UserError(f"missing {name}=: {field.metadata['doc']}")
    if settings:
        values[SETTINGS] = settings
    return config_class(**values), frozenset(given)


def _split(argv: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for argument in argv:
        name, equals, value = argument.partition("=")
        if name.startswith("-"):
            raise UserError(f"{argument}: keys have no dashes, as in seed=3")
        if not equals or not name:
            raise UserError(f"{argument or 'an empty argument'}: arguments are key=value, as in seed=3")
        if not value:
            raise UserError(f"{name}= has no value")
        if name in values:
            raise UserError(f"{name}= is given twice: {values[name]} and {value}")
        values[name] = value
    return values


def literal(text: str) -> Any:
    """Read env.KEY=text: true, false, a finite number, Python's None or literal in brackets or quotes; else text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with suppress(ValueError, OverflowError):
            if math.isfinite(number := kind(text)):
                return number
    if text == "None" or text.startswith(("(", "[", "{", "'", '"')):
        with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return ast.literal_eval(text)
    return text


def _nearest(name: str, known: Iterable[str], prog: str) -> str:
    """Suggest the key that the user may have meant, by its spelling or its initials (lr)."""
    known = list(known)
    found = get_close_matches(name, known, n=1) or [k for k in known if name == "".join(w[0] for w in k.split("_"))]
    return f"did you mean {found[0]}?" if found else f"`{prog} --help` lists the keys"


def help_text(config_class: type[Config], prog: str) -> str:
    """Format all keys with type, meaning and [default], in WIDTH columns."""
    shown = {
        name: (f"{name}={type_text(kinds(config_class)[name][0])}", field) for name, field in keys(config_class).items()
    }
    required = "".join(f" {left}" for left, field in shown.values() if field.default is MISSING)
    summary = (inspect.getdoc(config_class) or "").partition("\n")[0]
    lines = [f"usage: {prog}{required} key=value ...", "", *textwrap.wrap(summary, WIDTH), ""]
    for name, (left, field) in shown.items():
        lines += _help_entry(left, f"{field.metadata['doc']} [{_default(field)}]")
        if name == "env" and SETTINGS in kinds(config_class):
            lines += _help_entry("env.KEY=VALUE", "an argument of the environment, as in env.max_steps=100")
    return "\n".join(lines)


def _help_entry(left: str, right: str) -> list[str]:
    lines = textwrap.wrap(right, WIDTH - INDENT)
    if len(left) + 4 <= INDENT:
        return [f"  {left:<{INDENT - 2}}{lines[0]}", *(" " * INDENT + line for line in lines[1:])]
    return [f"  {left}", *(" " * INDENT + line for line in lines)]


def _default(field: Field[Any]) -> str:
    if field.default is MISSING:
        return "required"
    if field.default is None:
        return str(field.metadata["unset"])
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
