"""The live panel that shows a run in training on a terminal."""

import itertools
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from metta.errors import one_line
from metta.rl.display.progress import PlainProgress, Progress
from metta.rl.train_config import RunConfig

REFRESH_S = 0.25  # at least, between two drawings of the panel
SHARE = 0.01  # of the time, at most, goes into drawing (one takes some 10 ms)
WIDTH = 110  # columns of the panel, at most: more would part what belongs together
LOSSES = ("policy loss", "value loss", "entropy", "approx kl", "clip fraction", "explained variance")
PHASES = ("env", "forward", "learn", "wait", "save")
BARS = "▁▂▃▄▅▆▇█"


def make_progress(config: RunConfig, resumed_at: int, last_evaluation: Callable[[], str]) -> Progress:
    """display=auto: the panel where stderr is a terminal, lines otherwise."""
    display = config.display
    if display == "auto":
        display = "rich" if sys.stderr is not None and sys.stderr.isatty() else "plain"
    kind = {"rich": RichProgress, "plain": PlainProgress, "none": Progress}[display]
    return kind(config, resumed_at, last_evaluation)


class RichProgress(Progress):
    """A panel that is drawn again every second or so, and left on the screen at the end."""

    _live: Any = None
    _width = 0  # of the terminal at the last drawing
    _cost_s = 0.0  # of it

    def fail(self, why: str) -> None:
        self.stop(f"stopped: {why}")

    def start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), auto_refresh=False)
        self._drawn, self._width = 0.0, self._live.console.width
        self._live.start()
        self._draw()

    def update(self, epoch: int, agent_steps: int, scalars: dict[str, float], seconds: dict[str, float]) -> None:
        super().update(epoch, agent_steps, scalars, seconds)
        if time.perf_counter() - self._drawn > max(REFRESH_S, self._cost_s / SHARE):
            self._draw()

    def stop(self, how: str) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()
        self.say(how)
        self.say_health()

    def _draw(self) -> None:
        began = time.perf_counter()
        width = self._live.console.width
        if width != self._width:  # a panel drawn for another width would be left torn above the new one
            self._live.console.clear()
            self._width = width
        self._live.update(panel(self, width), refresh=True)
        self._drawn = time.perf_counter()
        self._cost_s = self._drawn - began


def panel(progress: Progress, width: int) -> Any:
    """The rich renderable, laid out for a terminal of `width` columns."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    config, scalars, total = progress.config, progress.scalars, progress.config.total_timesteps
    run = [
        ("epoch", f"{progress.epoch:,}"),
        ("steps", f"{progress.agent_steps:,}"),
        ("goal", f"{total:,}"),
        ("steps/s", number(progress.rate_now)),
        ("on average", number(progress.rate)),
        ("time left", progress.time_left),
        ("saved epoch", "-" if progress.saved_epoch is None else f"{progress.saved_epoch:,}"),
    ]
    losses = [(name, number(scalars.get(f"losses/{name.replace(' ', '_')}", math.nan))) for name in LOSSES]
    losses.append(("learning rate", number(scalars.get("charts/learning_rate", math.nan))))
    spent = sum(progress.seconds.values()) or 1.0
    seconds_by_phase = {**dict.fromkeys(PHASES, 0.0), **progress.seconds}  # from the first frame on, so nothing jumps
    phases = [(phase, f"{seconds:6.1f} s {100 * seconds / spent:3.0f}%") for phase, seconds in seconds_by_phase.items()]
    width = min(width, WIDTH)
    trend = max(10, width - 32)
    curves = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    curves.add_column(style="bold", min_width=len("evaluation"))
    curves.add_column(justify="right")
    curves.add_column(style="green")
    for name, values in (("return", progress.returns), ("length", progress.lengths)):
        curves.add_row(name, number(values[-1]) if values else "-", sparkline(values, trend))
    # Text is no markup: "arena[num_agents=4]".
    evaluation = Text.assemble(("evaluation ", "bold"), one_line(progress.last_evaluation()))
    health = [] if progress.health is None else [Text.assemble(("learning   ", "bold"), (progress.health, "yellow"))]
    bar = ProgressBar(total=total or 1, completed=min(progress.agent_steps, total or 1))
    grids = [grid("run", run), grid("losses", losses), grid("time", phases)]
    if progress.added:
        grids.append(grid("on_epoch", [(one_line(name), number(value)) for name, value in progress.added.items()]))
    tables = Columns(grids, padding=(0, 2), expand=True)
    return Panel(
        Group(bar, "", tables, "", curves, evaluation, *health),
        title=Text(f"metta  run={config.run}  env={one_line(config.env)}"),
        title_align="left",
        width=width,
    )


def grid(title: str, rows: list[tuple[str, str]]) -> Any:
    """Lay out names and values as a table of the panel."""
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 1, 0, 0)
    )
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=8)
    for row in rows:
        table.add_row(*row)
    return table


def sparkline(values: list[float], width: int) -> str:
    """The last values, or the means of as many equal parts as fit, as bars from the lowest to the highest."""
    if not values:
        return ""
    parts = min(width, len(values))
    edges = [i * len(values) // parts for i in range(parts + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in means)


def number(value: float) -> str:
    """A few significant digits, thousands separated."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2g}" if abs(value) < 0.1 else f"{value:.2f}"
