"""The curves that training left in a run folder: TensorBoard event files, read while they may still be written.

A file is a sequence of records: length (uint64), its CRC (uint32), the event as a protocol buffer, its CRC (uint32).
TensorBoard's own reader takes ten times as long to import, and keeps a sample of the points.
"""

import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from metta.errors import CheckpointError
from metta.eval import statistics
from metta.eval.comparison import Curve
from metta.eval.statistics import Floats
from metta.rl.saving.saved_config import newest_config, read_saved_config
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.run_folder import Folder, RunFolder

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

RETURN, LENGTH = "charts/episodic_return", "charts/episodic_length"
RECENT = 5  # epochs that a training return is the mean of
HEADER = struct.Struct("<QI")
FOOTER_BYTES = 4

Points: TypeAlias = tuple[Floats, Floats]  # agent steps [N], values [N]


def read_curves(run: RunFolder) -> dict[str, Points]:
    """Read every scalar in the run's event files: {name: points}, by agent step; {} if there is none.

    A process that went on from a checkpoint says from which step on what was logged before it is void (TensorBoard's
    `purge_step`). One that went on from step 0 does not, so any step that goes back voids what it goes back over.
    """
    curves: dict[str, dict[int, float]] = defaultdict(dict)  # each by ascending step
    for event in _events(run):
        if event.HasField("session_log") and event.session_log.status == event.session_log.START:
            for points in curves.values():
                _drop_from(points, event.step)
        for value in event.summary.value:
            if value.HasField("simple_value"):
                _drop_from(curves[value.tag], event.step)
                curves[value.tag][event.step] = value.simple_value
    return {name: _points(points) for name, points in sorted(curves.items()) if points}


def _drop_from(points: dict[int, float], step: int) -> None:
    while points and next(reversed(points)) >= step:
        points.popitem()


def _points(points: dict[int, float]) -> Points:
    return np.array(list(points), dtype=np.float64), np.array(list(points.values()), dtype=np.float64)


def _events(run: RunFolder) -> Iterator["Event"]:
    """Yield all events, file after file in the order in which the files were begun."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    files = []
    for part, path in run.curves:
        records = list(_records(path.read_bytes()))
        try:
            if records:
                files.append((part, Event.FromString(records[0]).wall_time, path.name, records))
        except DecodeError:
            continue  # not an event file
    for *_, records in sorted(files):
        for record in records:
            try:
                yield Event.FromString(record)
            except DecodeError:
                break  # damaged here: what follows cannot be trusted either


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the complete records; the last one may still be on its way to the disk."""
    at = 0
    while at + HEADER.size <= len(content):
        length, _ = HEADER.unpack_from(content, at)
        end = at + HEADER.size + length
        if end + FOOTER_BYTES > len(content):
            return
        yield content[at + HEADER.size : end]
        at = end + FOOTER_BYTES


def training_return(train_dir: Folder, run: str, epoch: int) -> float | None:
    """Average the returns that training logged last up to this epoch; None where that is not known."""
    pace = pace_of(train_dir, run)
    points = read_curves(RunFolder(train_dir, run)).get(RETURN)
    if points is None or pace is None:
        return None
    steps, values = points
    recent = values[steps <= pace.at(epoch)][-RECENT:]
    return statistics.mean(recent) if len(recent) else None


class Pace(NamedTuple):
    """How agent steps follow from epochs: how many an epoch has, and epoch 0, as a fork would have begun."""

    start: float
    each: float

    def at(self, epochs: Any) -> Any:
        return self.start + self.each * epochs


def pace_of(train_dir: Folder, run: str) -> Pace | None:
    """By the oldest and the newest trainer file, a fork's oldest being its parent's; None where there is none."""
    manager = TinyCheckpointManager(run, train_dir)
    newest = newest_config(manager)
    if newest is None or newest["epoch"] == 0:
        return None
    oldest = {"epoch": 0, "agent_steps": 0}
    with suppress(CheckpointError, IndexError):
        found = read_saved_config(manager.file("trainer", manager.list_epochs()[0]))
        oldest = found if found["epoch"] < newest["epoch"] else oldest
    each = (newest["agent_steps"] - oldest["agent_steps"]) / (newest["epoch"] - oldest["epoch"])
    return Pace(oldest["agent_steps"] - each * oldest["epoch"], each)


def thinned(points: Points, limit: int) -> Points:
    """Reduce to at most `limit` points by averaging neighbours."""
    steps, values = points
    if len(steps) <= limit:
        return points
    starts = np.linspace(0, len(steps), limit, endpoint=False).astype(int)
    counts = np.diff(np.append(starts, len(steps)))
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def over_runs(runs: Sequence[Points], limit: int) -> Curve:
    """Return one run's curve as it is; of several the mean with a 95% interval over runs, as far as all have got.

    Runs that logged at different steps are interpolated linearly at all of these steps, or at `limit` even ones.
    """
    if len(runs) == 1:
        return Curve(*thinned(runs[0], limit))
    first, last = max(steps[0] for steps, _ in runs), min(steps[-1] for steps, _ in runs)
    grid = np.unique(np.concatenate([steps for steps, _ in runs]))
    grid = grid[(grid >= first) & (grid <= last)]
    if len(grid) == 0:
        return Curve(grid, grid, grid, grid)
    same = all(np.array_equal(steps[(steps >= first) & (steps <= last)], grid) for steps, _ in runs)
    if len(grid) > limit and not same:
        grid = np.linspace(first, last, limit)
    columns = [thinned((grid, np.interp(grid, *points)), limit) for points in runs]
    values = np.stack([column for _, column in columns], axis=1)
    return Curve(columns[0][0], statistics.means(values), *statistics.bootstrap_intervals(values))
