"""A table on stdout: with rich on a terminal, as plain aligned text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metta.errors import one_line

if TYPE_CHECKING:
    from metta.eval.eval_db import Score
    from metta.eval.statistics import Estimate


def interval_text(interval: Score | Estimate) -> str:
    return f"[{interval.low:.2f}, {interval.high:.2f}]"


def score_text(score: Score) -> str:
    """Mean and 95% interval: "3.20 [3.10, 3.30]"."""
    return f"{score.mean:.2f} {interval_text(score)}"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print the first `left` columns, which are text, flush left, the others, which are numbers, flush right.

    Cells may come from anybody's files: nothing in them is markup or reaches the terminal as a command.
    """
    headings, *rows = [[one_line(cell) for cell in row] for row in (headings, *rows)]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for index, heading in enumerate(headings):
            table.add_column(Text(heading), justify="left" if index < left else "right")
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells = (f"{c:<{w}}" if i < left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        print("  ".join(cells).rstrip())
