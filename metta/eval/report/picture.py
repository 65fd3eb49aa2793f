"""The plots of a report as pictures, for slides and papers: white, twice the pixels, with their legend."""

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from metta.eval.comparison import Curve
from metta.eval.report.canvas import INK, LINE, MUTED, Canvas, Point, blend, text_width
from metta.eval.report.plots import Intervals, Lines, Matrix, Plot
from metta.eval.statistics import Floats

WIDTH = 760
PLOT_HEIGHT = 340
# As in page.css and charts.js: a hue for each of eight groups, then the same hues dashed.
HUES = ("#2a6fdb", "#e8701a", "#0b6e4f", "#d1489b", "#7d6c08", "#53309c", "#2f9fbd", "#6e3b22")
DASHES: tuple[tuple[float, ...], ...] = ((), (7, 4), (2, 4), (9, 3, 2, 3))
MORE, LESS = "#2a6fdb", "#d9661f"


@dataclass(frozen=True)
class Frame:
    """Where the data lies on the picture, in points."""

    left: float
    top: float
    right: float
    bottom: float


def picture(plot: Plot, names: Sequence[str], section: str) -> Image.Image:
    """`names`: of the groups; `section`: the title of the plot's section, put before its own."""
    plot = replace(plot, title=f"{section} · {plot.title}")
    match plot:
        case Lines():
            return draw_lines(plot, names)
        case Intervals():
            return draw_intervals(plot)
        case Matrix():
            return draw_matrix(plot)


def hue(group: int | None) -> str:
    return INK if group is None else HUES[group % len(HUES)]


def dash(group: int) -> tuple[float, ...]:
    return DASHES[group // len(HUES) % len(DASHES)]


def heading(plot: Plot) -> tuple[list[str], float]:
    """The caption's lines, and the height of title and caption."""
    lines = textwrap.wrap(plot.caption, 118)
    return lines, 42 + 16 * len(lines)


def draw_heading(canvas: Canvas, plot: Plot) -> None:
    canvas.text((20, 32), plot.title, 17, INK)
    for number, line in enumerate(heading(plot)[0]):
        canvas.text((20, 52 + 16 * number), line)


def draw_lines(plot: Lines, names: Sequence[str]) -> Image.Image:
    curves = [(group, curve) for group, curve in enumerate(plot.curves) if curve is not None and len(curve.x)]
    keys = legend_places([names[group] for group, _ in curves] if len(names) > 1 else [])
    top = heading(plot)[1] + (22 * (keys[-1][1] + 1) + 6 if keys else 0) + (26 if plot.y else 8)
    canvas = Canvas(WIDTH, top + PLOT_HEIGHT + 56)
    draw_heading(canvas, plot)
    for (group, _), (left, line) in zip(curves, keys, strict=False):
        middle = heading(plot)[1] + 14 + 22 * line
        canvas.line([(left, middle), (left + 22, middle)], hue(group), 3, dash(group))
        canvas.text((left + 29, middle), names[group], 13, INK, "lm")
    if curves:
        draw_curves(canvas, plot, curves, top)
    else:
        canvas.text((20, top + 20), "Nothing to show for these runs.")
    return canvas.finish()


def draw_curves(canvas: Canvas, plot: Lines, curves: Sequence[tuple[int, Curve]], top: float) -> None:
    columns = [column for _, curve in curves for column in (curve.y, curve.low, curve.high) if column is not None]
    x_range, y_range = span([curve.x for _, curve in curves]), widened(span(columns), 0.04)
    y_ticks = ticks(*y_range, PLOT_HEIGHT / 50)
    left = 32 + max(text_width(label) for _, label in y_ticks)
    frame = Frame(left, top, WIDTH - 24, top + PLOT_HEIGHT)
    x, y = scale(x_range, frame.left, frame.right), scale(y_range, frame.bottom, frame.top)
    for at, label in y_ticks:
        canvas.line([(frame.left, y(at)), (frame.right, y(at))], LINE)
        canvas.text((frame.left - 9, y(at)), label, anchor="rm")
    canvas.text((20, top - 12), plot.y)
    draw_axis(canvas, frame, [(x(at), label) for at, label in ticks(*x_range, 8)], plot.x)

    def points(curve: Curve, values: Floats) -> list[Point]:
        return [(x(at), y(value)) for at, value in zip(curve.x, values, strict=True)]

    many = len(curves) > 6
    for group, curve in curves:
        if curve.low is not None and curve.high is not None and len(curve.x) > 1:
            outline = points(curve, curve.high) + points(curve, curve.low)[::-1]
            canvas.area(outline, hue(group), 0.07 if many else 0.16)
    for group, curve in curves:
        canvas.line(points(curve, curve.y), hue(group), 1.5 if many else 2.2, dash(group))
        if plot.id.startswith("score_") and len(curve.x) <= 30:
            for point in points(curve, curve.y):
                canvas.circle(point, 3.2, hue(group))


def legend_places(names: Sequence[str]) -> list[tuple[float, int]]:
    """Left edge and line of each name."""
    places, x, line = [], 20.0, 0
    for name in names:
        width = 52 + text_width(name, 13)
        if x + width > WIDTH - 10 and x > 20:
            x, line = 20.0, line + 1
        places.append((x, line))
        x += width
    return places


def draw_axis(canvas: Canvas, frame: Frame, x_ticks: Sequence[tuple[float, str]], label: str) -> None:
    for x, text in x_ticks:
        canvas.text((x, frame.bottom + 19), text, anchor="ms")
    canvas.line([(frame.left, frame.bottom), (frame.right, frame.bottom)], MUTED)
    canvas.text((frame.right, frame.bottom + 40), label, anchor="rs")


def draw_intervals(plot: Intervals) -> Image.Image:
    top, step = heading(plot)[1] + 16, 34
    canvas = Canvas(WIDTH, top + step * len(plot.rows) + 56)
    draw_heading(canvas, plot)
    left = 36 + max(text_width(shortened(row.label), 13) for row in plot.rows)
    frame = Frame(left, top, WIDTH - 100, top + step * len(plot.rows))
    values = [np.array([estimate for row in plot.rows for estimate in row.estimate])]
    x_range = plot.domain or widened(span(values), 0.08)
    x = scale(x_range, frame.left, frame.right)
    x_ticks = [(x(at), label) for at, label in ticks(*x_range, 7)]
    for at, _ in x_ticks:
        canvas.line([(at, frame.top), (at, frame.bottom)], LINE)
    draw_axis(canvas, frame, x_ticks, plot.x)
    if plot.reference is not None:
        canvas.line([(x(plot.reference), frame.top), (x(plot.reference), frame.bottom)], MUTED, 1, (3, 4))
    for number, row in enumerate(plot.rows):
        y = frame.top + (number + 0.5) * step
        canvas.text((frame.left - 14, y), shortened(row.label), 13, INK, "rm")
        canvas.line([(x(row.estimate.low), y), (x(row.estimate.high), y)], blend(hue(row.group), 0.35, "#ffffff"), 9)
        canvas.circle((x(row.estimate.value), y), 5, hue(row.group))
        canvas.text((frame.right + 16, y), f"{row.estimate.value:.3g}", 13, INK, "lm")
    return canvas.finish()


def draw_matrix(plot: Matrix) -> Image.Image:
    longest = max(text_width(shortened(label), 13) for label in plot.labels)
    left = 32 + longest
    cell = min(56.0, max(22.0, (WIDTH - left - 20 - longest * 0.7) / len(plot.labels)))
    top = heading(plot)[1] + 12 + longest * 0.72
    canvas = Canvas(max(WIDTH, left + cell * len(plot.labels) + longest * 0.7 + 20), top + cell * len(plot.labels) + 24)
    draw_heading(canvas, plot)
    for i, (label, row) in enumerate(zip(plot.labels, plot.cells, strict=True)):
        canvas.text((left - 10, top + (i + 0.5) * cell), shortened(label), 13, INK, "rm")
        canvas.slanted((left + (i + 0.5) * cell, top - 6), shortened(label), 13, INK)
        for j, estimate in enumerate(row):
            if estimate is None:
                continue
            colour = blend(MORE if estimate.value >= 0.5 else LESS, abs(estimate.value - 0.5) * 1.5)
            at: Point = (left + j * cell, top + i * cell)
            canvas.box((at[0] + 1, at[1] + 1), (cell - 2, cell - 2), colour, 3)
            text = f"{estimate.value:.2f}".removeprefix("0")
            canvas.text((at[0] + cell / 2, at[1] + cell / 2), text, min(12, cell * 0.38), INK, "mm")
    return canvas.finish()


def shortened(label: str, most: int = 30) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def span(columns: Iterable[Floats]) -> tuple[float, float]:
    columns = list(columns)
    low, high = min(float(c.min()) for c in columns), max(float(c.max()) for c in columns)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
    return low, high


def widened(values: tuple[float, float], share: float) -> tuple[float, float]:
    margin = (values[1] - values[0]) * share
    return values[0] - margin, values[1] + margin


def scale(values: tuple[float, float], start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - values[0]) / (values[1] - values[0]) * (end - start)


def ticks(low: float, high: float, most: float) -> list[tuple[float, str]]:
    """Round values from low to high with their labels."""
    raw = (high - low) / max(1.0, most)
    power = 10 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.75)
    values = [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return [(value, tick_label(value, step, max(abs(low), abs(high)))) for value in values]


def tick_label(value: float, step: float, largest: float) -> str:
    if abs(value) < step * 1e-6:
        return "0"
    unit, suffix = next(
        (
            (unit, suffix)
            for limit, unit, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
            if largest >= limit
        ),
        (1.0, ""),
    )
    decimals = max(0, -math.floor(math.log10(step / unit) + 1e-9))
    text = f"{value:.1e}" if decimals > 4 else f"{value / unit:.{decimals}f}{suffix}"
    return text.replace("-", "−")
