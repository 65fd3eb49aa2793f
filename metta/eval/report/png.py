"""The plots of a report as PNG files, for slides and papers: white, large, with their legend. Needs matplotlib."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import EngFormatter, MaxNLocator

from metta.eval.report.plots import Intervals, Lines, Matrix, Plot

WIDTH, DOTS = 7.6, 200  # inches, dots per inch
# As in page.css and charts.js: a hue for each of eight groups, then the same hues dashed.
HUES = ("#2a6fdb", "#e8701a", "#0b6e4f", "#d1489b", "#7d6c08", "#53309c", "#2f9fbd", "#6e3b22")
DASHES = ("-", (0, (5, 3)), (0, (1, 2)), (0, (6, 2, 1, 2)))
CELLS: dict[str, Any] = {"vmin": -0.15, "vmax": 1.15, "edgecolor": "white", "linewidth": 2}  # pale: text is on them
INK, MUTED, GRID = "#16181d", "#5f6672", "#e3e6eb"
BETTER = LinearSegmentedColormap.from_list("better", ["#d9661f", "#f6f7f9", "#2a6fdb"])
STYLE = {
    "font.size": 9, "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "axes.edgecolor": MUTED, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "ytick.major.size": 0, "grid.color": GRID, "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip


def save_png(plot: Plot, names: Sequence[str], section: str, path: Path) -> None:
    """names: of the groups. section: the title of the plot's section, put before its own."""
    with context(["default", STYLE]):  # whatever the user's matplotlibrc says
        match plot:
            case Lines():
                figure = draw_lines(plot, names)
            case Intervals():
                figure = draw_intervals(plot)
            case Matrix():
                figure = draw_matrix(plot)
        caption = textwrap.fill(plot.caption, 110)
        height = figure.get_figheight() + 0.45 + 0.16 * len(caption.splitlines())
        figure.set_figheight(height)
        figure.text(0.15 / figure.get_figwidth(), 1 - 0.15 / height, f"{section} · {plot.title}", size=13, va="top")
        figure.text(0.15 / figure.get_figwidth(), 1 - 0.42 / height, caption, color=MUTED, va="top")
        top = 1 - (0.45 + 0.16 * len(caption.splitlines())) / height
        figure.set_layout_engine("constrained", rect=(0.01, 0, 0.98, top), w_pad=0.1, h_pad=0.08)
        figure.savefig(path, dpi=DOTS, metadata={"Software": None})


def draw_lines(plot: Lines, names: Sequence[str]) -> Figure:
    curves = [(group, curve) for group, curve in enumerate(plot.curves) if curve is not None and len(curve.x)]
    columns = max(1, 96 // (8 + max(map(len, names))))
    figure = Figure((WIDTH, 3.6 + 0.18 * math.ceil(len(names) / columns)))
    axes = figure.subplots()
    width, opacity = (1.2, 0.07) if len(curves) > 6 else (1.8, 0.16)
    for group, curve in curves:
        look: dict[str, Any] = {"color": hue(group), "linestyle": DASHES[group // len(HUES) % len(DASHES)]}
        marker = "o" if plot.id.startswith("score_") and len(curve.x) <= 30 else ""
        axes.plot(curve.x, curve.y, linewidth=width, marker=marker, markersize=4, label=names[group], **look)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=hue(group), alpha=opacity, linewidth=0)
    axes.set_xlabel(plot.x, loc="right")
    axes.set_ylabel(plot.y)
    axes.grid(axis="y")
    axes.margins(x=0.01)
    if plot.focus is not None:
        margin = 0.04 * (plot.focus[1] - plot.focus[0])
        axes.set_ylim(plot.focus[0] - margin, plot.focus[1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    if plot.x == "epoch" and curves:
        last = max(curve.x[-1] for _, curve in curves)
        left = [tick for tick in axes.get_xticks() if 0 <= tick < last - 0.06 * np.ptp(axes.get_xlim())]
        axes.set_xticks([*left, last])  # the epoch that the scores are of
    for axis in (axes.xaxis, axes.yaxis):
        if max(map(abs, axis.get_view_interval())) >= 1e4:
            axis.set_major_formatter(EngFormatter(sep=""))
    if not curves:
        axes.text(0.5, 0.5, "Nothing to show for these runs.", transform=axes.transAxes, ha="center")
    elif len(names) > 1:
        figure.legend(loc="outside lower left", ncols=columns)
    return figure


def draw_intervals(plot: Intervals) -> Figure:
    figure = Figure((WIDTH, 0.75 + 0.34 * len(plot.rows)))
    axes = figure.subplots()
    for y, row in enumerate(plot.rows):
        color, estimate = hue(row.group), row.estimate
        axes.plot([estimate.low, estimate.high], [y, y], color=color, alpha=0.35, linewidth=6)
        axes.plot([estimate.value], [y], "o", color=color, clip_on=False)
        axes.text(1.02, y, f"{estimate.value:.3g}", transform=axes.get_yaxis_transform(), va="center")
    if plot.reference is not None:
        axes.axvline(plot.reference, color=MUTED, linestyle=":", linewidth=1)
    axes.set_xlim(plot.domain)
    axes.set_ylim(len(plot.rows) - 0.5, -0.5)
    axes.set_yticks(range(len(plot.rows)), [folded(row.label) for row in plot.rows], color=INK)
    axes.set_xlabel(plot.x, loc="right")
    axes.grid(axis="x")
    return figure


def draw_matrix(plot: Matrix) -> Figure:
    count = len(plot.labels)
    side = max(WIDTH, 2 + 0.3 * count)
    figure = Figure((side, side * 0.8))
    axes = figure.subplots()
    values = np.array([[math.nan if cell is None else cell.value for cell in row] for row in plot.cells])
    axes.pcolormesh(np.arange(count + 1) - 0.5, np.arange(count + 1) - 0.5, values, cmap=BETTER, **CELLS)
    axes.set(aspect="equal", ylim=(count - 0.5, -0.5))
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            text = f"{value:.2f}".removeprefix("0")
            axes.text(column, row, text, size=min(9, 90 / count), ha="center", va="center_baseline")
    labels = [folded(label) for label in plot.labels]
    axes.set_yticks(range(count), labels, color=INK)
    axes.xaxis.tick_top()
    axes.set_xticks(range(count), labels, color=INK, rotation=40, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def hue(group: int) -> str:
    return HUES[group % len(HUES)]


def folded(label: str) -> str:
    """The label in two lines at most."""
    return textwrap.fill(label, 32, max_lines=2, placeholder="…", break_on_hyphens=False)
