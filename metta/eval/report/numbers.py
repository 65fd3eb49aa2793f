"""The numbers of a report as CSV: a file for each plot, and one with every score."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from metta.eval.comparison import Comparison
from metta.eval.event_files import Pace
from metta.eval.report.plots import Intervals, Lines, Matrix, Plot

Table: TypeAlias = Iterator[Sequence[object]]


def write_csv(path: Path, rows: Table) -> None:
    """Write numbers in full: what is read back is what was computed."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def score_rows(comparison: Comparison, pace: Mapping[str, Pace | None]) -> Table:
    """List every evaluation of every run, as EvalDB.get_scores returns it. pace: each run's."""
    yield "runs", "run", "epoch", "agent steps", "env", "mean", "low", "high", "iqm", "episodes"
    for group in comparison.groups:
        for run in group.runs:
            own = pace[run]
            for epoch, scores in sorted(comparison.scores[run].items()):
                for env, s in sorted(scores.items()):
                    at = "" if own is None else round(own.at(epoch))
                    yield group.name, run, epoch, at, env, s.mean, s.low, s.high, s.iqm, s.episodes


def plot_rows(plot: Plot, names: Sequence[str]) -> Table:
    """List a plot's numbers. names: of the groups. A curve without a band has empty low and high."""
    match plot:
        case Lines():
            yield "runs", plot.x, plot.y or "value", "low", "high"
            for name, curve in zip(names, plot.curves, strict=True):
                if curve is not None:
                    columns = (curve.x, curve.y, curve.low, curve.high)
                    numbers = [[""] * len(curve.x) if column is None else column.tolist() for column in columns]
                    for x, *rest in zip(*numbers, strict=True):
                        yield name, int(x) if x.is_integer() else x, *rest
        case Intervals():
            yield "runs", plot.x, "low", "high"
            for one in plot.rows:
                yield one.label, *one.estimate
        case Matrix():
            yield "A", "B", "P(A > B)", "low", "high"
            for a, row in zip(plot.labels, plot.cells, strict=True):
                for b, estimate in zip(plot.labels, row, strict=True):
                    if estimate is not None:
                        yield a, b, *estimate
