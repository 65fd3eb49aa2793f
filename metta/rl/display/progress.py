"""What is known of a run in training, and the lines that say it on stderr."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from metta.errors import one_line, say
from metta.rl.display.health import Learned, verdict
from metta.rl.train_config import RunConfig

OURS = ("losses/", "charts/", "env/")  # what scalars of our own begin with
LEARNED = Learned._fields[1:]
MUCH_EXCHANGE = 0.1  # of the time: something should be done about it
RATE_EPOCHS = 10  # that "now" means, in steps per second


@dataclass
class Progress:
    """What is known of the run so far; `update` takes it further. This class itself shows nothing (display=none)."""

    config: RunConfig
    resumed_at: int = 0
    last_evaluation: Callable[[], str] = lambda: "none"
    epoch: int = 0
    agent_steps: int = 0
    scalars: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    saved_epoch: int | None = None
    returns: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    learned: list[Learned] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        self.agent_steps = self.resumed_at
        self.recent: deque[tuple[float, int]] = deque([(self.began, self.resumed_at)], maxlen=RATE_EPOCHS + 1)

    def start(self) -> None:
        """Before the first epoch."""

    def update(self, epoch: int, agent_steps: int, scalars: dict[str, float], seconds: dict[str, float]) -> None:
        """Take in what an epoch brought. seconds: by phase, since the start."""
        self.epoch, self.agent_steps, self.seconds = epoch, agent_steps, seconds
        self.scalars |= scalars
        self.recent.append((time.perf_counter(), agent_steps))
        if "charts/episodic_return" in self.scalars:  # of the last epoch in which episodes ended
            self.returns.append(self.scalars["charts/episodic_return"])
            self.lengths.append(self.scalars["charts/episodic_length"])
        if "charts/episodic_return" in scalars:
            losses = (scalars.get(f"losses/{name}", math.nan) for name in LEARNED)
            self.learned.append(Learned(scalars["charts/episodic_return"], *losses))

    def saved(self, epoch: int) -> None:
        """A checkpoint was handed to the disk."""
        self.saved_epoch = epoch

    def stop(self, how: str) -> None:
        """After the last epoch; `how` says why it was the last."""

    def fail(self, why: str) -> None:
        """Training cannot go on. Said whatever the display."""
        self.say(f"stopped: {why}")

    def say_health(self) -> None:
        if self.health is not None:
            self.say(self.health)

    def say(self, text: str) -> None:
        say(f"run={self.config.run} {text}")

    @property
    def health(self) -> str | None:
        """Say what is wrong with the learning; None where nothing shows, or the beginning was in another process."""
        return None if self.resumed_at else verdict(self.learned)

    @property
    def rate(self) -> float:
        """Agent steps per second since the start."""
        return (self.agent_steps - self.resumed_at) / max(time.perf_counter() - self.began, 1e-9)

    @property
    def rate_now(self) -> float:
        (then, before), (now, after) = self.recent[0], self.recent[-1]
        return (after - before) / (now - then) if now > then else float("nan")

    @property
    def added(self) -> dict[str, float]:
        """The scalars that on_epoch has added."""
        return {name: value for name, value in self.scalars.items() if not name.startswith(OURS)}

    @property
    def time_left(self) -> str:
        rate = self.rate_now
        return clock(max(self.config.total_timesteps - self.agent_steps, 0) / rate) if rate > 0 else "-"


class PlainProgress(Progress):
    """One line for each checkpoint."""

    def start(self) -> None:
        if self.resumed_at:
            begun = f" ({self.config.ancestry})" if self.config.ancestry else ""
            self.say(f"goes on at {self.resumed_at:,} of {self.config.total_timesteps:,} agent steps{begun}")

    def saved(self, epoch: int) -> None:
        super().saved(epoch)
        if epoch:
            shown = f"return={self.returns[-1]:.2f} length={self.lengths[-1]:.0f} " if self.returns else ""
            shown += "".join(f"{one_line(name)}={value:.4g} " for name, value in self.added.items())
            self.say(
                f"epoch={epoch} steps={self.agent_steps:,}/{self.config.total_timesteps:,} {shown}"
                f"steps/s={self.rate_now:,.0f} left={self.time_left}"
            )

    def stop(self, how: str) -> None:
        self.say(how)
        self.say_health()


def exchange_cost(seconds: Mapping[str, float]) -> str:
    """Say what share of the time the ranks took to meet, and what to do about it; "" where there is one rank."""
    if "exchange" not in seconds:
        return ""
    share = seconds["exchange"] / sum(seconds.values())
    return f"exchange {share:.0%}" + (": more environments a rank" if share >= MUCH_EXCHANGE else "")


def clock(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
