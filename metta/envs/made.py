"""What a source of environments made, before it is adapted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Made:
    what: Any
    max_steps: int | None = None  # truncate its episodes after so many steps
    of_seed: Callable[[int], Any] | None = None  # makes another for the episode of a seed, where that is asked for
