"""Configuration classes whose fields are the keys of a command: type, meaning, default and bounds declared once.

A value typed as `key=value` and one given from Python pass the same checks. This imports no torch.
"""

import math
import operator
import os
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from metta.errors import UserError

T = TypeVar("T")
Check = Callable[[Any], str | None]  # says what a value must be, where it is not
Parse = Callable[[str], Any]

BY_ENVIRONMENT = "by environment"
MANY = 10**18  # of whatever is counted in 64 bits
SHOWN = 60  # characters of a value that is refused
TYPES: dict[Any, tuple[str, str]] = {  # as --help shows a type, and in words
    bool: ("true|false", "true or false"),
    int: ("INT", "a whole number, as in 2_000_000"),
    float: ("NUM", "a number"),
    str: ("TEXT", "text"),
    dict: ("", "a dict"),
}
BOOLS = {"true": True, "1": True, "false": False, "0": False}


@overload
def key(doc: str) -> Any: ...
@overload
def key(
    doc: str, default: T, check: Check | None = None, unset: str = BY_ENVIRONMENT, parse: Parse | None = None
) -> T: ...
def key(
    doc: str,
    default: Any = MISSING,
    check: Check | None = None,
    unset: str = BY_ENVIRONMENT,
    parse: Parse | None = None,
) -> Any:
    """Declare a field that the command line can set; without a default it has to be given.

    unset: what --help says of a default of None. BY_ENVIRONMENT: that None is no value, so it cannot be typed.
    parse: reads the text where the type alone does not say how; ValueError says what it must be.
    """
    return field(default=default, metadata={"doc": doc, "check": check, "unset": unset, "parse": parse})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations: checks every value's type and bounds. UserError says which is wrong."""

    def __post_init__(self) -> None:
        for name, (kind, optional) in kinds(type(self)).items():
            value = getattr(self, name)
            if kind is not None and (value is not None or not optional):
                object.__setattr__(self, name, _fit(name, value, kind))
        for name, declared in keys(type(self)).items():
            value, check = getattr(self, name), declared.metadata["check"]
            if value is not None and check is not None and (wanted := check(value)) is not None:
                raise UserError(f"{name}={shown(value)}: must be {wanted}")


def keys(config_class: type) -> dict[str, Field[Any]]:
    """List the fields that the command line can set, in the order of --help."""
    return {declared.name: declared for declared in fields(config_class) if "doc" in declared.metadata}


def kinds(config_class: type) -> dict[str, tuple[Any, bool]]:
    """Return each field's type without `| None`, and whether it may be None; a type is None if only parse= knows it."""
    hints = get_type_hints(config_class)
    return {declared.name: _kind(hints[declared.name]) for declared in fields(config_class)}


def _kind(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (types.UnionType, Union):
        others = [other for other in get_args(hint) if other is not type(None)]
        return others[0] if len(others) == 1 else None, type(None) in get_args(hint)
    return dict if get_origin(hint) is dict else hint, False


def type_text(kind: Any) -> str:
    """Format a type for --help: "INT"."""
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else TYPES[kind or str][0]


def read(config_class: type, name: str, text: str) -> Any:
    """Read the value of `name=text`. UserError if it is not of the field's type."""
    kind, optional = kinds(config_class)[name]
    parse: Parse | None = keys(config_class)[name].metadata["parse"]
    if parse is not None:
        try:
            return parse(text)
        except ValueError as error:
            raise UserError(f"{name}={shown(text)}: must be {error}") from None
    if optional and text == "None" and keys(config_class)[name].metadata["unset"] != BY_ENVIRONMENT:
        return None
    try:
        if kind is bool:
            return BOOLS[text.lower()]
        return kind(text) if kind in (int, float) else _fit(name, text, kind)
    except (KeyError, ValueError):
        raise _mistyped(name, text, kind) from None


def _fit(name: str, value: Any, kind: Any) -> Any:
    """Convert a value to the plain type of its field; a trainer file holds no numpy numbers and no paths."""
    if kind is str and isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if kind is int and isinstance(value, Integral) and value is not True and value is not False:
        return int(value)
    if kind is float and isinstance(value, Real) and value is not True and value is not False:
        try:
            return float(value)
        except OverflowError:
            return math.inf
    fits = value in get_args(kind) if get_origin(kind) is Literal else type(value) is kind
    if not fits:
        raise _mistyped(name, value if isinstance(value, str) else repr(value), kind)
    return value


def whole(name: str, value: Any) -> int:
    """Read a whole number that Python gave. UserError for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name}={shown(repr(value))}: must be a whole number") from None


def _mistyped(name: str, value: str, kind: Any) -> UserError:
    words = f"one of {', '.join(get_args(kind))}" if get_origin(kind) is Literal else TYPES[kind][1]
    return UserError(f"{name}={shown(value)}: not {words}")


def shown(value: Any) -> str:
    """Format a value for an error's line, shortened if it is long."""
    text = hex(value) if isinstance(value, int) and value.bit_length() > 10_000 else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def between(low: float, high: float) -> Check:
    """Check that low <= value <= high."""
    return lambda value: _wanted(value, low <= value <= high, f"{low} to {high}")


def at_least(low: float, most: float = MANY) -> Check:
    """Check that low <= value; `most` only refuses what no machine can do."""
    return lambda value: _wanted(value, low <= value <= most, f"at least {low}" if value < low else f"at most {most:_}")


def above(low: float, most: float) -> Check:
    """Check that low < value; `most` as in `at_least`."""
    return lambda value: _wanted(
        value, low < value <= most, f"greater than {low}" if value <= low else f"at most {most:_}"
    )


def _wanted(value: float, fits: bool, wanted: str) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "finite"
    return None if fits else wanted
