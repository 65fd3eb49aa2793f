"""Comparing runs bit for bit: states, logged scalars, TensorBoard curves."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metta.rl.one_run import Trainer


def differences(a: Any, b: Any, at: str = "") -> list[str]:
    """The places at which two nested states differ in type, shape, dtype or any bit; none: they are the same."""
    if type(a) is not type(b):
        return [f"{at}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, torch.nn.Module):
        return differences(dict(a.state_dict()), dict(b.state_dict()), at)
    if isinstance(a, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        same = a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    elif isinstance(a, dict):
        found = [f"{at}: keys {sorted(set(a) ^ set(b), key=str)}"] if a.keys() != b.keys() else []
        return found + [place for key in a.keys() & b.keys() for place in differences(a[key], b[key], f"{at}/{key}")]
    elif isinstance(a, list | tuple):
        found = [f"{at}: lengths {len(a)} and {len(b)}"] if len(a) != len(b) else []
        return found + [p for i, (x, y) in enumerate(zip(a, b, strict=False)) for p in differences(x, y, f"{at}/{i}")]
    else:
        same = a == b or str(a) == str(b) == "nan"
    return [] if same else [f"{at}: {a} and {b}" if np.ndim(a) == 0 else f"{at}: values differ"]


def run_epochs(trainer: Trainer, epochs: int) -> list[dict[str, float]]:
    """The scalars of each epoch, without the clock's."""
    logged = [trainer.run_epoch() for _ in range(epochs)]
    return [{name: value for name, value in scalars.items() if "per_second" not in name} for scalars in logged]


def curves(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """{name: [(agent steps, value)]} of a run's TensorBoard files, without the clock's."""
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if "per_second" not in name]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}
