"""The report as one HTML file: plain data, and a script that draws it. It fetches nothing, so it opens anywhere."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from metta.eval.comparison import FEW_SEEDS, Comparison, Curve
from metta.eval.event_files import Pace
from metta.eval.report.plots import MAIN_CURVES, Intervals, Lines, Matrix, Plot, Section, file_name
from metta.eval.report.settings import Settings
from metta.eval.statistics import RESAMPLES, Floats
from metta.html_page import html_page
from metta.run_folder import RunFolder

SCRIPTS = ("charts.js", "page.js")
Axes: TypeAlias = dict[bytes, tuple[int, list[float]]]  # the x values of all curves, each with its number
MAIN_PLOTS = {f"training_{file_name(name)}" for name in MAIN_CURVES}
METHODS = f"""\
Scores are of fixed episodes: each evaluation plays the same seeds, with the whole agent of one checkpoint file. \
An interval holds 95% of {RESAMPLES} bootstrap resamples (percentiles). Of a single run the episodes are drawn anew; \
of several seeds of one setting whole runs are, because all episodes of a run share one policy.
The interquartile mean is the mean of the middle half of all episodes. P(A > B) is the share of episodes, paired by \
seed, in which A got more reward than B, ties counting half, over all pairs of their runs. Both, and the performance \
profile, follow Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice \
(arXiv 2108.13264).
With fewer than {FEW_SEEDS} seeds an interval means little for the setting: it does not see how much training itself \
varies from seed to seed."""


@dataclass(frozen=True)
class Report:
    """All that is in a report; `train_dir` is where its links lead."""

    train_dir: Path
    comparison: Comparison
    sections: list[Section]
    runs: list[dict[str, Any]]  # as run_files makes them
    settings: Settings
    pace: dict[str, Pace | None]  # run -> how agent steps follow from epochs, where known
    notes: list[str]


def page(report: Report, path: Path) -> str:
    """Make the HTML of a report that will lie at `path`; links to checkpoints and replays are relative to it."""
    content = page_data(report, path)
    return html_page(Path(__file__).parent, SCRIPTS, f"{content['title']} · metta", content)


def page_data(report: Report, path: Path) -> dict[str, Any]:
    comparison, made = report.comparison, datetime.now().astimezone()
    axes: Axes = {}
    return {
        "title": title([group.name for group in comparison.groups]),
        "about": f"{report.train_dir} · {made:%Y-%m-%d %H:%M %Z}",
        "groups": [{"name": group.name, "runs": group.runs} for group in comparison.groups],
        "settings": vars(report.settings),
        "notes": report.notes,
        "summary": summary(comparison),
        "sections": [
            {"title": section.title, "plots": [plot_data(plot, axes) for plot in section.plots]}
            for section in report.sections
        ],
        "xs": [x for _, x in axes.values()],
        "runs": [{**run, "folder": folder_link(run["name"], report.train_dir, path)} for run in report.runs],
        "methods": METHODS.splitlines(),
    }


def title(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    if len(names) > 6:
        return f"{names[0]}, {names[1]} and {len(names) - 2} others"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def summary(comparison: Comparison) -> list[dict[str, Any]]:
    """Make the rows of the first table: one for each environment and group."""
    return [
        {
            "group": index,
            "env": env.env,
            "epochs": ", ".join(map(str, sorted(set(env.finals[index].epochs)))),
            "mean": env.finals[index].mean,
            "iqm": env.finals[index].iqm,
            "best": env.best[index],
            "episodes": len(env.finals[index].seeds),
            "over": interval_over(len(group.runs)),
        }
        for env in comparison.envs
        for index, group in enumerate(comparison.groups)
    ]


def interval_over(runs: int) -> str:
    if runs == 1:
        return "episodes"
    return f"{runs} seeds" + (" (too few)" if runs < FEW_SEEDS else "")


def axis(x: Floats, axes: Axes) -> int:
    """The number of these x values among all, each of them once: the curves of a run mostly share theirs."""
    if (key := x.tobytes()) not in axes:
        axes[key] = len(axes), [int(value) if value.is_integer() else value for value in x.tolist()]
    return axes[key][0]


def plot_data(plot: Plot, axes: Axes) -> dict[str, Any]:
    """Convert a plot for page.js: its fields and its kind."""
    match plot:
        case Lines():
            training = plot.id.startswith("training_")
            curves = [None if curve is None else curve_data(curve, axes, rounded=training) for curve in plot.curves]
            flags = {
                "smooth": training,
                "main": plot.id in MAIN_PLOTS,
                "dots": plot.id.startswith("score_"),
                "ends": not plot.id.startswith("profile_"),
            }
            return {**vars(plot), "kind": "lines", "curves": curves, **flags}
        case Intervals():
            rows = [{"label": row.label, "group": row.group, **row.estimate._asdict()} for row in plot.rows]
            return {**vars(plot), "kind": "intervals", "rows": rows}
        case Matrix():
            return {**vars(plot), "kind": "matrix"}


def curve_data(curve: Curve, axes: Axes, rounded: bool) -> dict[str, Any]:
    """Convert a curve for page.js; `rounded` keeps 5 digits of training curves, which have many points."""

    def values(column: Floats | None) -> list[float] | None:
        if column is None:
            return None
        return [float(f"{value:.5g}") for value in column.tolist()] if rounded else column.tolist()

    return {"x": axis(curve.x, axes), "y": values(curve.y), "low": values(curve.low), "high": values(curve.high)}


def folder_link(run: str, train_dir: Path, path: Path) -> str:
    """Link from the page at `path` to the run's folder."""
    return f"{quote(os.path.relpath(RunFolder(train_dir, run).path, path.parent))}/"
