"""What training shows on stderr: a live panel on a terminal, one line for each checkpoint otherwise, or nothing."""

import itertools
import math
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from metta.rl.train_config import RunConfig

REFRESH_S = 0.25  # at least, between two drawings of the panel
SHARE = 0.01  # of the time, at most, goes into drawing (one takes some 10 ms)
RATE_EPOCHS = 10  # that "now" means, in steps per second
TREND = 40  # characters of a trend line, at most
LOSSES = ("policy loss", "value loss", "entropy", "approx kl", "clip fraction", "explained variance")
BARS = "▁▂▃▄▅▆▇█"


@dataclass
class Progress:
    """What is known of the run so far; `epoch` takes it further. This class itself shows nothing (display=none)."""

    config: RunConfig
    resumed_at: int = 0
    last_evaluation: Callable[[], str] = lambda: "none"
    epochs: int = 0
    agent_steps: int = 0
    scalars: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    saved_epoch: int | None = None
    returns: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        self.agent_steps = self.resumed_at
        self.recent: deque[tuple[float, int]] = deque([(self.began, self.resumed_at)], maxlen=RATE_EPOCHS + 1)

    def start(self) -> None:
        """Before the first epoch."""

    def epoch(self, epoch: int, agent_steps: int, scalars: dict[str, float], seconds: dict[str, float]) -> None:
        """An epoch is over. seconds: by phase, since the start."""
        self.epochs, self.agent_steps, self.seconds = epoch, agent_steps, seconds
        self.scalars |= scalars
        self.recent.append((time.perf_counter(), agent_steps))
        if "charts/episodic_return" in scalars:
            self.returns.append(scalars["charts/episodic_return"])
            self.lengths.append(scalars["charts/episodic_length"])

    def saved(self, epoch: int) -> None:
        """A checkpoint was handed to the disk."""
        self.saved_epoch = epoch

    def stop(self, how: str) -> None:
        """After the last epoch; `how` says why it was the last."""

    def fail(self, why: str) -> None:
        """Training cannot go on. Said whatever the display."""
        self.say(f"stopped: {why}")

    def say(self, text: str) -> None:
        print(f"run={self.config.run} {text}", file=sys.stderr, flush=True)

    @property
    def rate(self) -> float:
        """Agent steps per second since the start."""
        return (self.agent_steps - self.resumed_at) / max(time.perf_counter() - self.began, 1e-9)

    @property
    def rate_now(self) -> float:
        (then, before), (now, after) = self.recent[0], self.recent[-1]
        return (after - before) / (now - then) if now > then else float("nan")

    @property
    def time_left(self) -> str:
        rate = self.rate_now
        return clock(max(self.config.total_timesteps - self.agent_steps, 0) / rate) if rate > 0 else "-"


class PlainProgress(Progress):
    """One line for each checkpoint."""

    def start(self) -> None:
        if self.resumed_at:
            self.say(f"goes on at {self.resumed_at:,} of {self.config.total_timesteps:,} agent steps")

    def saved(self, epoch: int) -> None:
        super().saved(epoch)
        if epoch:
            shown = f"return={self.returns[-1]:.2f} length={self.lengths[-1]:.0f} " if self.returns else ""
            self.say(
                f"epoch={epoch} steps={self.agent_steps:,}/{self.config.total_timesteps:,} {shown}"
                f"steps/s={self.rate_now:,.0f} left={self.time_left}"
            )

    def stop(self, how: str) -> None:
        self.say(how)


class RichProgress(Progress):
    """A panel that is drawn again every second or so, and left on the screen at the end."""

    _live: Any = None
    _cost_s = 0.0  # of the last drawing

    def fail(self, why: str) -> None:
        self.stop(f"stopped: {why}")

    def start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), auto_refresh=False)
        self._drawn = 0.0
        self._live.start()
        self._draw()

    def epoch(self, epoch: int, agent_steps: int, scalars: dict[str, float], seconds: dict[str, float]) -> None:
        super().epoch(epoch, agent_steps, scalars, seconds)
        if time.perf_counter() - self._drawn > max(REFRESH_S, self._cost_s / SHARE):
            self._draw()

    def stop(self, how: str) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()
        self.say(how)

    def _draw(self) -> None:
        began = time.perf_counter()
        self._live.update(panel(self, self._live.console.width), refresh=True)
        self._drawn = time.perf_counter()
        self._cost_s = self._drawn - began


def make_progress(config: RunConfig, resumed_at: int, last_evaluation: Callable[[], str]) -> Progress:
    """display=auto: the panel where stderr is a terminal, lines otherwise."""
    display = config.display
    if display == "auto":
        display = "rich" if sys.stderr.isatty() else "plain"
    kind = {"rich": RichProgress, "plain": PlainProgress, "none": Progress}[display]
    return kind(config, resumed_at, last_evaluation)


def panel(progress: Progress, width: int) -> Any:
    """The rich renderable, laid out for a terminal of `width` columns."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    def grid(title: str, rows: list[tuple[str, str]]) -> Table:
        table = Table(
            title=title, title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 1, 0, 0)
        )
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        return table

    config, scalars, total = progress.config, progress.scalars, progress.config.total_timesteps
    run = [
        ("epoch", f"{progress.epochs:,}"),
        ("steps", f"{progress.agent_steps:,}"),
        ("of", f"{total:,}"),
        ("steps/s", number(progress.rate_now)),
        ("on average", number(progress.rate)),
        ("time left", progress.time_left),
        ("saved epoch", "-" if progress.saved_epoch is None else f"{progress.saved_epoch:,}"),
    ]
    nan = float("nan")
    losses = [(name, number(scalars.get(f"losses/{name.replace(' ', '_')}", nan))) for name in LOSSES]
    losses.append(("learning rate", number(scalars.get("charts/learning_rate", nan))))
    spent = sum(progress.seconds.values()) or 1.0
    phases = [
        (phase, f"{seconds:.1f} s  {100 * seconds / spent:3.0f}%")
        for phase, seconds in sorted(progress.seconds.items(), key=lambda item: -item[1])
    ]
    trend = min(TREND, max(10, width - 40))
    curves = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    curves.add_column(style="bold", min_width=len("evaluation"))
    curves.add_column(justify="right")
    curves.add_column(style="green")
    for name, values in (("return", progress.returns), ("length", progress.lengths)):
        curves.add_row(name, number(values[-1]) if values else "-", sparkline(values, trend))
    evaluation = Text.assemble(("evaluation ", "bold"), progress.last_evaluation())  # no markup: "arena[num_agents=4]"
    bar = ProgressBar(total=total or 1, completed=min(progress.agent_steps, total or 1))
    tables = Columns([grid("run", run), grid("losses", losses), grid("time", phases)], padding=(0, 2))
    return Panel(
        Group(bar, "", tables, "", curves, evaluation),
        title=f"metta  run={config.run}  env={config.env}",
        title_align="left",
    )


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


def clock(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
