"""What an agent must know about its environment: plain data, small enough to live in every agent file."""

import numbers
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias

from metta.errors import UserError, one_line
from metta.user_code import place_of

FOLDERS = re.compile(r"(^|,)[^,]*?/(?=[^/,]*\.py:)")
WRAPPERS = "wrappers"  # the setting that every Gymnasium environment has: functions of the user's, comma between
SAMPLED = " sampled"  # ends the label of scores whose actions were drawn on demand, so no query mixes the two
LABEL = re.compile(rf"(?P<name>.*?)(?P<of>(\[\w+=.*\])?({SAMPLED})?)", re.DOTALL)
MOST_SEED = 2**31 - 1  # of an episode that a user names
# A text that could be taken for several settings, or for a value that is none: quoted in a label.
AMBIGUOUS = re.compile(r"""[^,\[\](){}<>'"]*[,\[\](){}<>'"].*|-?(\d[\d.e+-]*|inf)|nan|True|False|None|""", re.DOTALL)


@dataclass(frozen=True, eq=False)
class EnvName:
    """Which environment: its name and settings, as `env=` and `env.KEY=VALUE` give them.

    `check_env` makes it canonical, so that equal settings are equal: each of its default's type, defaults left out;
    and a file's name has its whole path.
    """

    name: str  # "arena", "CartPole-v1", "/path/to/file.py:Name", "package.module:Name"
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, env: Any, settings: dict[str, Any] | None = None) -> Self:
        """Name what `env=` was given: a name, or from Python a class or a function. UserError for anything else."""
        settings = {key: kept(key, value) for key, value in (settings or {}).items()}
        if isinstance(env, EnvName):
            return cls(env.name, env.settings).with_(settings)
        if isinstance(env, str):
            return cls(env, settings)
        if callable(env) and hasattr(env, "__qualname__"):
            return cls(place_of(env), settings)
        if not hasattr(env, "reset"):
            raise UserError(f"env={one_line(repr(env))}: not text, nor a class or a function")
        kind = type(env).__name__
        raise UserError(f"env={kind}(...): give the class or a function that makes one, for several copies are made")

    @property
    def short_name(self) -> str:
        """The name without the folders of a file: "file.py:Name"."""
        return without_folders(self.name)

    @property
    def wrappers(self) -> list[str]:
        """The places of the user's functions that wrap it, the first innermost."""
        return [place for place in self.settings.get(WRAPPERS, "").split(",") if place]

    @property
    def label(self) -> str:
        """The environment's name in eval.db: "arena", or with settings "arena[max_steps=100,num_agents=4]"."""
        return self._text(without_folders)

    def _text(self, place: Callable[[str], str]) -> str:
        values = {key: place(str(value)) if key == WRAPPERS else value for key, value in sorted(self.settings.items())}
        settings = ",".join(f"{key}={as_text(value)}" for key, value in values.items())
        return f"{place(self.name)}[{settings}]" if settings else place(self.name)

    def with_(self, settings: dict[str, Any]) -> Self:
        """The same environment with these settings besides or instead."""
        return type(self)(self.name, {**self.settings, **settings})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EnvName) and self._text(str) == other._text(str)

    def __hash__(self) -> int:
        return hash(self.label)


AnyEnv: TypeAlias = EnvName | str | Callable[..., Any]  # a name, a class or a function


def kept(key: str, value: Any) -> Any:
    """Copy the value of a setting. UserError for what no run can keep, and compare, as what it is."""
    if isinstance(value, dict):
        return {name: kept(key, part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [kept(key, part) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if key == WRAPPERS or value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, numbers.Real):  # numpy's
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    what = f"env.{key} is a {type(value).__name__}, and settings are numbers, text, true, false, None, lists and dicts"
    raise UserError(f"{what}: give as env= a function that makes the environment with it")


def without_folders(places: str) -> str:
    """Leave out the folders of files in one or several names, comma between: "file.py:Name"."""
    return FOLDERS.sub(r"\1", places)


def categories(label: str) -> list[str]:
    """List what the environment of a label is one of: "suite.py:SUITE", "suite.py:SUITE/mazes" if it is so called.

    Settings and drawn actions are part of each: "suite.py:SUITE[length=2.0] sampled".
    """
    name, of = split_label(label)
    parts = name.split("/") if ":" in name else []
    return ["/".join(parts[:depth]) + of for depth in range(1, len(parts))]


def split_label(label: str) -> tuple[str, str]:
    """Split a label, as of scores, into the name, and settings with what says that actions were drawn; "" for none."""
    found = LABEL.fullmatch(label)
    assert found is not None
    return found["name"], found["of"]


def as_text(value: Any) -> str:
    """The value of a setting in a label, the same for no two of different types."""
    return value if isinstance(value, str) and not AMBIGUOUS.fullmatch(value) else repr(value)


@dataclass(frozen=True)
class TokenSpec:
    """How to read MettaGrid's observations, `[tokens, 3]` of (packed location, feature id, value) in uint8.

    A location is `row << 4 | column` inside the window, or 0xFE for a value that has no place; padding has feature 255.
    """

    window: tuple[int, int]  # height, width
    features: tuple[tuple[int, str, float], ...]  # id, name, normalization: a value divided by it is at most about 1
    tags: tuple[str, ...]  # a token of the feature "tag" has an index into this as its value
    action_names: tuple[str, ...]  # and one of the feature "last_action" an index into this


@dataclass(frozen=True)
class Leaf:
    """One part of a nested observation: where it is found in it, and what its numbers are."""

    path: tuple[str | int, ...]  # keys and indices of Dict and Tuple
    kind: str  # "vector"; "flags": zeros and ones, as of a Discrete made one-hot; "image"
    shape: tuple[int, ...]
    dtype: str  # of the environment; in the row it is the row's


@dataclass(frozen=True)
class EnvSpec:
    """One environment's name and spaces, the same for each of its agents."""

    env: EnvName
    num_agents: int
    observation_kind: str  # "vector", "image", "tokens", or "composite": a row of numbers
    observation_shape: tuple[int, ...]  # of one agent
    observation_dtype: str  # numpy's name: "float32", "uint8" or "bool"
    num_actions: int | None  # of a single choice; None: several at once, or continuous actions
    # Bounds of continuous actions, flattened: -1 and 1, which the environment's own stand behind, or infinite.
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    action_shape: tuple[int, ...] = ()  # of one agent; () for a single choice
    tokens: TokenSpec | None = field(default=None, repr=False)  # MettaGrid only
    action_sizes: tuple[int, ...] = ()  # of several choices at once: the number of alternatives of each
    # A composite observation is a row of its leaves in this order, vectors first, then flags, then images; after them
    # the action mask (1: allowed) where `masked`, and last where `agents_vary` whether the agent is there at all.
    leaves: tuple[Leaf, ...] = ()
    masked: bool = False
    agents_vary: bool = False

    @property
    def choices(self) -> tuple[int, ...]:
        """The number of alternatives of each choice that an action makes; () for continuous actions."""
        return self.action_sizes if self.num_actions is None else (self.num_actions,)

    @property
    def action_dtype(self) -> str:
        """numpy's name, as observation_dtype is."""
        return "int64" if self.choices else "float32"

    def mask_in(self, observations: Any) -> Any:
        """The part `[..., sum(choices)]` of observations `[..., row]`, array or tensor, that says what is allowed."""
        end = self.observation_shape[0] - self.agents_vary
        return observations[..., end - sum(self.choices) : end] != 0

    def present_in(self, observations: Any) -> Any:
        """Whether the agent is there, `[...]`, of observations `[..., row]` where `agents_vary`."""
        return observations[..., -1] != 0

    @property
    def images(self) -> "tuple[EnvSpec, ...]":
        """Its images, each as the observation of a spec: its only one, or those among its leaves."""
        if self.observation_kind == "image":
            return (self,)
        return tuple(
            replace(self, observation_kind="image", observation_shape=leaf.shape, observation_dtype=leaf.dtype)
            for leaf in self.leaves
            if leaf.kind == "image"
        )

    @property
    def channels_last(self) -> bool:
        """Of an image: its channels are its last axis, as in Gymnasium, unless the first is the odd one out.

        That is where the other two are equal, or where it is the shortest of all.
        """
        first, second, third = self.observation_shape
        return not (first != second == third or first < min(second, third))

    @property
    def large_image(self) -> bool:
        """From 36 pixels up on each side: an image with details to look for, not a small grid."""
        if self.observation_kind != "image":
            return False
        sides = self.observation_shape[:-1] if self.channels_last else self.observation_shape[1:]
        return min(sides) >= 36


def check_fit(trained: EnvSpec, other: EnvSpec) -> None:
    """UserError unless an agent trained on one environment can act in the other."""
    observations = ("observation_kind", "observation_shape")
    actions = ("num_actions", "action_shape", "action_sizes", "action_low", "action_high", "masked")
    for name in (*observations, *actions, "agents_vary", "tokens", "leaves"):
        had, has = getattr(trained, name), getattr(other, name)
        if had != has:
            what = name.replace("_", " ")
            detail = "" if name in ("tokens", "leaves") else f" ({what} {had}, not {has})"
            raise UserError(
                f"an agent trained on {trained.env.label} cannot act in {other.env.label}: their {what} differ{detail}"
            )
