"""Chance in training: every epoch begins with every global generator seeded anew, from the run's seed and its number.

So what an epoch draws depends on nothing before it, and no generator's state need be saved.
"""

import functools
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# Held from the seeding until all is drawn: trainers in several threads of a process have the same generators.
DRAWING = threading.RLock()


def seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's generators, those of GPUs included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    seed_torch(seed)


def seed_torch(seed: int) -> None:
    """Torch's generators alone, from which agents draw."""
    if _has_accelerator():
        torch.manual_seed(seed)
    else:  # which is all that it does, a hundred times as fast: 1 us
        torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed everything for what is drawn inside."""
    with DRAWING:
        seed_everything(seed)
        yield


@contextmanager
def unchanged() -> Iterator[None]:
    """Leave the generators behind as they were, for whoever draws the settings of the next run from them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        with DRAWING:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


@functools.cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


def seed_of(*numbers: int) -> int:
    """A seed below 2**62 for this sequence of whole numbers from 0 on, as good as independent of any other's."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(2))
