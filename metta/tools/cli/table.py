"""A table on stdout, as plain aligned text; on a terminal a row is never wider than it."""

import shutil
import sys
from collections.abc import Sequence

from metta.errors import one_line
from metta.eval.statistics import Estimate, Score

LEAST_WIDTH = 12  # of a text that is shortened, so that it still says something
SCORE_HEADINGS = ("mean reward", "95% interval", "IQM", "episodes")


def interval_text(interval: Score | Estimate) -> str:
    return f"[{interval.low:.2f}, {interval.high:.2f}]"


def score_text(score: Score) -> str:
    """Mean and 95% interval: "3.20 [3.10, 3.30]"."""
    return f"{score.mean:.2f} {interval_text(score)}"


def score_cells(score: Score) -> tuple[str, ...]:
    """What stands below SCORE_HEADINGS."""
    return f"{score.mean:.2f}", interval_text(score), f"{score.iqm:.2f}", str(score.episodes)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print the first `left` columns, which are text, flush left, the others, which are numbers, flush right.

    Cells may come from anybody's files: nothing in them is markup or reaches the terminal as a command.
    """
    headings, *rows = [[one_line(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    if sys.stdout.isatty():  # where a row that wraps is no row: shorten the widest text, then what is wide else
        excess = sum(widths) + 2 * (len(widths) - 1) - shutil.get_terminal_size().columns
        for column in sorted(range(len(widths)), key=lambda column: (column >= left, -widths[column])):
            less = max(0, min(excess, widths[column] - LEAST_WIDTH))
            widths[column] -= less
            excess -= less
    for row in (headings, *rows):
        cells = [cut(cell, width) for cell, width in zip(row, widths, strict=True)]
        aligned = (f"{c:<{w}}" if i < left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        print("  ".join(aligned).rstrip())


def cut(text: str, columns: int) -> str:
    """Shorten the text to so many columns; "…" says that something is missing."""
    return text if len(text) <= columns else text[: columns - 1] + "…"
