"""The plots of a report as plain data, from which the page, the pictures and the tables of numbers are made alike."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeAlias

import numpy as np

from metta.eval.comparison import Comparison, Curve, EnvComparison, Group
from metta.eval.event_files import LENGTH, RETURN, Pace, Points, over_runs
from metta.eval.statistics import Estimate, Floats

MOST_PAIRS = 10  # drawn as intervals; more become a matrix
CURVE_POINTS = 500  # of one training curve, at most
ALL_CURVE_POINTS = 150_000  # of all training curves together: 1 MB in the page, 3 MB with bands
STEPS = "agent steps"  # the axis of training curves
MAIN_CURVES = (RETURN, LENGTH)


@dataclass(frozen=True)
class Titled:
    """What every plot has."""

    id: str
    title: str
    caption: str


@dataclass(frozen=True)
class Lines(Titled):
    """Curves with bands: a curve for each group, None where a group has none."""

    x: str
    y: str
    curves: list[Curve | None]
    pace: list[Pace | None] | None = None  # for x = epoch: how each group's agent steps follow from it, where known
    focus: tuple[float, float] | None = None  # of y: what to show where a few values would squeeze the others


@dataclass(frozen=True)
class Row:
    """One estimate; `group` colours it."""

    label: str
    group: int
    estimate: Estimate


@dataclass(frozen=True)
class Intervals(Titled):
    """Estimates with their intervals, one below the other."""

    x: str
    rows: list[Row]
    reference: float | None = None  # a value to compare with
    domain: tuple[float, float] | None = None


@dataclass(frozen=True)
class Matrix(Titled):
    """P(row beats column) for every pair of groups, None where they share no episode."""

    labels: list[str]
    cells: list[list[Estimate | None]]


Plot: TypeAlias = Lines | Intervals | Matrix


@dataclass(frozen=True)
class Section:
    """A heading with its plots."""

    title: str
    plots: list[Plot]


def sections(
    comparison: Comparison, training: Mapping[str, Mapping[str, Points]], pace: Mapping[str, Pace | None]
) -> list[Section]:
    """Make all plots: a section for each environment, one over all of them, one of training.

    `training`: run -> name of the curve -> points. `pace`: run -> how its agent steps follow from epochs, where known.
    """
    found = [env_section(comparison.groups, env, pace) for env in comparison.envs]
    if comparison.overall:
        found.append(Section("All environments", [overall_plot(comparison)]))
    curves = training_plots(comparison.groups, training)
    return with_own_ids([*found, Section("Training", curves)] if curves else found)


def with_own_ids(found: Sequence[Section]) -> list[Section]:
    """Number what would be one file, on any file system, or one figure of the page: "score_a-b", "score_a-b-2"."""
    taken: set[str] = set()

    def own(plot: Plot) -> Plot:
        for number in count(1):
            named = plot if number == 1 else replace(plot, id=f"{plot.id}-{number}")
            steps = over_steps(named) if isinstance(named, Lines) else None
            ids = {made.id.lower() for made in (named, steps) if made is not None}
            if taken.isdisjoint(ids):
                break
        taken.update(ids)
        return named

    return [Section(section.title, [own(plot) for plot in section.plots]) for section in found]


def env_section(groups: Sequence[Group], env: EnvComparison, pace: Mapping[str, Pace | None]) -> Section:
    name = file_name(env.env)
    of_groups = [{pace[run] for run in group.runs} for group in groups]
    plots: list[Plot] = [
        Lines(
            f"score_{name}",
            "Score over epochs",
            f"Mean reward of an episode with its 95% interval, {over_what(groups)}.",
            "epoch",
            "mean reward",
            list(env.curves),
            [found.pop() if len(found) == 1 else None for found in of_groups],
        ),
        Intervals(
            f"final_{name}",
            "Final score",
            f"Interquartile mean of the last evaluation's rewards with its 95% interval, {over_what(groups)}.",
            "interquartile mean of reward",
            estimate_rows(groups, [final.iqm for final in env.finals]),
        ),
    ]
    if env.better:
        plots.append(better_plot(groups, env, name))
    caption = "Share of the last evaluation's episodes with more than this reward; further right and up is better."
    plots.append(
        Lines(f"profile_{name}", "Performance profile", caption, "reward", "share of episodes", list(env.profiles))
    )
    return Section(env.env, plots)


def over_steps(plot: Lines) -> Lines | None:
    """Make the same plot over agent steps, as training curves are; None where it cannot be."""
    if not any(plot.pace or ()):
        return None
    named = zip(plot.curves, plot.pace or (), strict=True)
    curves = [replace(curve, x=pace.at(curve.x)) if curve and pace else None for curve, pace in named]
    return replace(
        plot, id=f"{plot.id}_steps", title=plot.title.replace("epochs", STEPS), x=STEPS, curves=curves, pace=None
    )


def over_what(groups: Sequence[Group]) -> str:
    sizes = {len(group.runs) > 1 for group in groups}
    if sizes == {True}:
        return "over seeds"
    return "over episodes" if sizes == {False} else "over seeds where there are several, else over episodes"


def estimate_rows(groups: Sequence[Group], estimates: Sequence[Estimate]) -> list[Row]:
    """Name and colour each group's estimate."""
    named = zip(groups, estimates, strict=True)
    return [Row(group.name, index, estimate) for index, (group, estimate) in enumerate(named)]


def better_plot(groups: Sequence[Group], env: EnvComparison, name: str) -> Plot:
    """Plot P(A > B) as an interval for each pair of few groups, or as a matrix of many."""
    title = "Which is better?"
    caption = (
        "Probability that A gets more reward than B in the same episode (same seed), ties counting half; 95% interval."
    )
    if len(env.better) <= MOST_PAIRS:
        rows = [Row(f"{groups[one.a].name} > {groups[one.b].name}", one.a, one.probability) for one in env.better]
        return Intervals(f"better_{name}", title, caption, "P(A > B)", rows, reference=0.5, domain=(0.0, 1.0))
    cells: list[list[Estimate | None]] = [[None] * len(groups) for _ in groups]
    for one in env.better:
        value, low, high = one.probability
        cells[one.a][one.b] = one.probability
        cells[one.b][one.a] = Estimate(1 - value, 1 - high, 1 - low)
    caption = caption.replace("A ", "the row ").replace("B ", "the column ")
    return Matrix(f"better_{name}", title, caption, [group.name for group in groups], cells)


def overall_plot(comparison: Comparison) -> Plot:
    rows = estimate_rows(comparison.groups, comparison.overall)
    caption = (
        "Interquartile mean over runs and environments of the final mean rewards, with the stratified bootstrap's 95%"
        " interval over seeds (a single run has none). In each environment 0 is the lowest and 1 the highest"
        " mean reward of any evaluation here."
    )
    return Intervals("final_all", "Final score over all environments", caption, "scaled reward", rows)


def training_plots(groups: Sequence[Group], training: Mapping[str, Mapping[str, Points]]) -> list[Plot]:
    """Make a plot for each scalar in the event files, return and length first."""
    names = {name for curves in training.values() for name in curves}
    if all(np.array_equal(curves.get(RETURN, ()), curves.get(LENGTH, ())) for curves in training.values()):
        names.discard(LENGTH)  # as where each step pays 1
    ordered = [name for name in MAIN_CURVES if name in names] + sorted(names.difference(MAIN_CURVES))
    limit = max(50, min(CURVE_POINTS, ALL_CURVE_POINTS // max(1, len(ordered) * len(groups))))
    plots: list[Plot] = []
    for name in ordered:
        curves: list[Curve | None] = []
        for group in groups:
            runs = [training[run][name] for run in group.runs if name in training.get(run, {})]
            curves.append(over_runs(runs, limit) if len(runs) == len(group.runs) else None)
        title = name.partition("/")[2].replace("_", " ").capitalize() if name in MAIN_CURVES else name
        caption = "While training, over the episodes that ended in each epoch." if name in MAIN_CURVES else ""
        focus = focus_of([curve.y for curve in curves if curve is not None])
        if focus is not None:
            caption += f" A few values lie beyond {focus[0]:.3g} to {focus[1]:.3g}."
        plots.append(Lines(f"training_{file_name(name)}", title, caption.strip(), STEPS, "", curves, focus=focus))
    return plots


def focus_of(columns: Sequence[Floats]) -> tuple[float, float] | None:
    """Find the range of the middle 96% of all values, or None unless their whole range is over 4 times as wide."""
    values = np.concatenate([[], *columns])
    if len(values) < 20:
        return None
    low, high = np.quantile(values, (0.02, 0.98)).tolist()
    return (low, high) if 0 < 4 * (high - low) < np.ptp(values) else None


def file_name(text: str) -> str:
    """Replace what a file name should not hold by '-'."""
    return re.sub(r"[^A-Za-z0-9._=,+-]+", "-", text)
