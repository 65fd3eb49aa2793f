"""What Gymnasium's spaces mean to an agent: a Box as it is, all else as a row of numbers; actions as choices or a box.

Text is left out. A space that has no numbers of a fixed size is refused, with the wrapper to write.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces

from metta.envs.env_spec import Leaf
from metta.errors import UserError

KINDS = ("vector", "flags", "image")  # of leaves, in the order of a row
MOST_CHOICES = 2**16  # each is a column of observations, or of what the policy puts out
CHOICES = f"Discrete, MultiDiscrete or MultiBinary of up to {MOST_CHOICES:,} choices"
UNBOUNDED = 1e6  # bounds as far out, as those of float32, say nothing of what an action should be
MASK = "action_mask"  # in a Dict observation, or in info
LATE_MASK = "an action mask, where the first reset gave none"


class ObservationReader:
    """Writes observations of one space as the rows of numbers that an agent reads.

    choices: of the actions, as EnvSpec has them. UserError for a space that cannot be read.
    """

    def __init__(self, name: str, space: spaces.Space, choices: tuple[int, ...]):
        if not isinstance(space, spaces.Space):
            raise UserError(
                f"env={name}: its observation_space is a {type(space).__name__}, not a space of Gymnasium's"
            )
        self.space, self.num_choices = space, sum(choices)
        self.texts: list[str] = []  # what is left out
        self.gives_mask = bool(choices) and isinstance(space, spaces.Dict) and MASK in space.spaces
        leaves = []
        for path, part in parts_of(space, ()):
            if self.gives_mask and path == (MASK,):
                continue
            if np.dtype(part.dtype).kind == "U":
                self.texts.append(".".join(map(str, path)))
            elif path and isinstance(part, spaces.Box) and 0 in part.shape:
                continue  # there is nothing to read
            elif (leaf := leaf_of(path, part)) is not None:
                leaves.append((leaf, part))
            else:
                raise unreadable(name, part, path)
        if not leaves:
            raise unreadable(name, space, ())
        leaves.sort(key=lambda pair: KINDS.index(pair[0].kind))  # stable: as in the space otherwise
        self.leaves = tuple(leaf for leaf, _ in leaves)
        ends = np.cumsum([math.prod(leaf.shape) for leaf in self.leaves]).tolist()
        self._size = ends[-1]
        columns = [slice(begin, end) for begin, end in pairwise([0, *ends])]
        self._writers = [(leaf.path, part, where) for (leaf, part), where in zip(leaves, columns, strict=True)]
        # Of pictures that are not bytes, which the encoder scales by itself.
        self.scaled = [where for (leaf, part), where in zip(leaves, columns, strict=True) if is_pixels(leaf, part)]

    def fields(self, masked: bool, agents_vary: bool = False) -> dict[str, Any]:
        """Return EnvSpec's fields about observations; a bare Box needs no row unless more must be said."""
        if isinstance(self.space, spaces.Box) and not masked and not agents_vary:
            (leaf,) = self.leaves
            kind = "vector" if leaf.kind == "flags" else leaf.kind
            return {"observation_kind": kind, "observation_shape": leaf.shape, "observation_dtype": leaf.dtype}
        small = all(leaf.dtype in ("bool", "uint8") for leaf in self.leaves)
        return {
            "observation_kind": "composite",
            "observation_shape": (self._size + masked * self.num_choices + agents_vary,),
            "observation_dtype": "uint8" if small else "float32",
            "leaves": self.leaves,
            "masked": masked,
            "agents_vary": agents_vary,
        }

    def write(self, row: np.ndarray, observation: Any, mask: Any = None) -> None:
        """Write an observation into `row`, and behind it the mask where there is room for one; None: all is allowed."""
        for path, space, columns in self._writers:
            value = observation
            for key in path:
                try:
                    value = value[key]
                except (KeyError, IndexError, TypeError):
                    said = f"its space has {'.'.join(map(str, path))}"
                    raise ValueError(f"an observation without {key!r}: {said}") from None
            put(row[columns], space, value)
        for columns in self.scaled:
            row[columns] *= 1 / 255
        behind = row[self._size :]
        if len(behind) >= self.num_choices > 0:
            behind[: self.num_choices] = 1 if mask is None else self._flat_mask(mask)
        elif mask is not None and self.num_choices > 0:
            raise ValueError(LATE_MASK)

    def _flat_mask(self, mask: Any) -> np.ndarray:
        """The mask `[num_choices]`, which sb3-contrib and Gymnasium also give as an array for each choice."""
        parts = mask if isinstance(mask, list | tuple) else [mask]
        flat = np.concatenate([np.ravel(part) for part in parts])
        if len(flat) != self.num_choices:
            raise ValueError(f"an action mask of {len(flat)} numbers, where the actions have {self.num_choices}")
        return flat != 0


def parts_of(space: spaces.Space, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], spaces.Space]]:
    """Walk through Dict and Tuple down to what lies in them."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inside = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in inside:
            yield from parts_of(part, (*path, key))
    else:
        yield path, space


def leaf_of(path: tuple[str | int, ...], space: spaces.Space) -> Leaf | None:
    """How to read a space: 3-D arrays and 2-D bytes are images, the rest is flat; None if it cannot be read."""
    if isinstance(space, spaces.Box) and len(space.shape) <= 3 and 0 not in space.shape:
        dtype = space.dtype.name if space.dtype.name in ("bool", "uint8") else "float32"
        if len(space.shape) == 3:
            return Leaf(path, "image", space.shape, dtype)
        if len(space.shape) == 2 and dtype == "uint8":
            return Leaf(path, "image", (1, *space.shape), dtype)
        return Leaf(path, "flags" if dtype == "bool" else "vector", (math.prod(space.shape),), dtype)
    if isinstance(space, spaces.Discrete):
        size = int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        size = int(space.nvec.sum())
    elif isinstance(space, spaces.MultiBinary):
        size = math.prod(space.shape)
    else:
        return None
    return Leaf(path, "flags", (size,), "bool") if 1 <= size <= MOST_CHOICES else None


def is_pixels(leaf: Leaf, space: spaces.Space) -> bool:
    """Whether an image's numbers go from 0 to 255 though they are not bytes."""
    if leaf.kind != "image" or leaf.dtype != "float32" or not isinstance(space, spaces.Box):
        return False
    return bool((space.low == 0).all() and (space.high == 255).all())


def put(row: np.ndarray, space: spaces.Space, value: Any) -> None:
    """Write a leaf's value into its columns, Discrete ones one-hot. ValueError where it is not one of the space's."""
    numbers = np.asarray(value).reshape(-1)
    if value is None or len(numbers) != math.prod(space.shape or ()):
        what = "None" if value is None else f"shape {np.shape(value)}"
        raise ValueError(f"an observation of {what}, its space has {space.shape}")
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        if row.dtype.kind == "f":
            row[:] = numbers
            return
        with np.errstate(invalid="ignore"):  # of NaN, which is no byte
            row[:] = numbers
        if (changed := row != numbers).any():
            raise ValueError(f"{numbers[changed][0]} in an observation, its space is of {space.dtype}")
        return
    sizes = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    chosen = numbers - np.ravel(space.start)
    if not ((chosen >= 0) & (chosen < sizes) & (chosen % 1 == 0)).all():
        raise ValueError(f"the observation {value} is not in {space}")
    row[:] = 0
    row[(np.cumsum(sizes) - sizes + chosen).astype(np.int64)] = 1


def unreadable(name: str, space: spaces.Space, path: tuple[str | int, ...]) -> UserError:
    where = f" in {'.'.join(map(str, path))}" if path else ""
    wrapper = "def f(env): return gymnasium.wrappers.TransformObservation(env, as_numbers, Box(-1, 1, (8,)))"
    return UserError(
        f"env={name} has observations that no agent reads: {space}{where}; wanted Box of up to 3 dimensions, {CHOICES},"
        f" or Tuple and Dict of them. A wrapper makes one: {wrapper}, env.wrappers=path.py:f"
    )


def describe_actions(name: str, space: spaces.Space) -> dict[str, Any]:
    """Return EnvSpec's fields about actions. UserError where no agent produces them."""
    if isinstance(space, spaces.Discrete) and space.n <= MOST_CHOICES:
        return {"num_actions": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.sum() <= MOST_CHOICES:
        sizes = tuple(int(n) for n in space.nvec.flat)
        return {"num_actions": None, "action_sizes": sizes, "action_shape": (len(sizes),)}
    if isinstance(space, spaces.MultiBinary) and 2 * math.prod(space.shape) <= MOST_CHOICES:
        sizes = (2,) * math.prod(space.shape)
        return {"num_actions": None, "action_sizes": sizes, "action_shape": (len(sizes),)}
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and 0 not in space.shape:
        low, high = (tuple(bound.ravel().tolist()) for bound in chosen_bounds(space))
        return {"num_actions": None, "action_low": low, "action_high": high, "action_shape": (len(low),)}
    wrapper = "def f(env): return gymnasium.wrappers.TransformAction(env, its_action, Discrete(4))"
    raise UserError(
        f"env={name} has actions that no agent produces: {space}; wanted {CHOICES}, or a Box of floats. A wrapper "
        f"makes one: {wrapper}, env.wrappers=path.py:f"
    )


def choices_of(actions: dict[str, Any]) -> tuple[int, ...]:
    """The number of alternatives of each choice, from `describe_actions`."""
    num_actions = actions["num_actions"]
    return actions.get("action_sizes", ()) if num_actions is None else (num_actions,)


def action_converter(space: spaces.Space) -> Callable[[np.ndarray], Any]:
    """Make the function from a row of actions `[1, *action_shape]` to what the environment's step takes."""
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return lambda actions: actions.item() + start
    if isinstance(space, spaces.MultiDiscrete):
        starts = space.start
        return lambda actions: actions.reshape(starts.shape).astype(starts.dtype) + starts
    if isinstance(space, spaces.MultiBinary):
        return lambda actions: actions.reshape(space.shape).astype(space.dtype)
    assert isinstance(space, spaces.Box)
    low, high, shape, dtype = space.low, space.high, space.shape, space.dtype
    bounded = np.isfinite(chosen_bounds(space)[0])
    least, most = np.where(bounded, low, -1.0).astype(np.float64), np.where(bounded, high, 1.0).astype(np.float64)
    half, centre = (most - least) / 2, (most + least) / 2
    stretched = bool((half != 1).any() or (centre != 0).any())

    def convert(actions: np.ndarray) -> np.ndarray:
        chosen = actions.reshape(shape)
        action = (chosen * half + centre if stretched else chosen).astype(dtype)
        np.maximum(action, low, out=action)
        return np.minimum(action, high, out=action)

    return convert


def chosen_bounds(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """The bounds between which an agent chooses a Box's actions: -1 and 1, which stand for its own where it has both.

    A policy begins around 0 with a deviation of about 1, whatever the units of the environment.
    """
    bounded = np.maximum(np.abs(space.low), np.abs(space.high)) < UNBOUNDED
    return np.where(bounded, -1.0, -np.inf), np.where(bounded, 1.0, np.inf)
