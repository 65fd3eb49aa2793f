"""What the comparisons share: medians with their ranges, and where the results go."""

import json
import os
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATA = HERE / "data"
WORK = HERE / "work"  # scratch, on the same disk as the project; git ignores it
PACKAGES = (
    "torch",
    "numpy",
    "gymnasium",
    "mettagrid",
    "stable_baselines3",
    "pufferlib-core",
    "orbax-checkpoint",
    "ale-py",
)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median and range: `5 [4, 7]`."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_readme(new: str) -> None:
    """Put a table in the place of README's that has the same head."""
    path = HERE.parent / "README.md"
    text = path.read_text()
    begin = text.index("\n".join(new.split("\n")[:2]))
    path.write_text(text[:begin] + new + text[text.index("\n\n", begin) :])


def conditions(threads: int, **settings: Any) -> dict[str, Any]:
    """What a result depends on beside the code, the machine's load of the last minute before it among it."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    python = sys.version.split()[0]
    load = round(os.getloadavg()[0], 1)
    return {"cores": os.cpu_count(), "threads": threads, "load": load, **settings, "python": python, **packages}


def write(name: str, results: dict[str, Any]) -> None:
    """To benchmarks/data/NAME.json."""
    DATA.mkdir(exist_ok=True)
    (DATA / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
