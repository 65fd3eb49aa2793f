"""The environments that learning is measured on: some to tune the defaults on, others to trust.

Fixed before the first setting was tried. No default may be chosen by looking at `TEST`; it is run once for each
candidate that is about to become a default.

A score is normalised so that 0 is the random agent and 1 is `good`: what RL Baselines3 Zoo's tuned PPO settings reach
(https://github.com/DLR-RM/rl-baselines3-zoo/blob/22e3ff2/benchmark.md, one run each), or where the zoo has none, the
mean of our own Stable-Baselines3 runs at the same steps (benchmarks/data/sb3.jsonl), which is meant by None.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rung:
    """One environment, how long it is trained on, and the score that counts as 1."""

    env: str
    steps: int
    good: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    note: str = ""  # where `good` was measured on something else than this environment at these steps

    @property
    def label(self) -> str:
        settings = ",".join(f"{key}={value}" for key, value in sorted(self.settings.items()))
        return f"{self.env}[{settings}]" if settings else self.env


TUNING = (
    Rung("CartPole-v1", 200_000, 500.0, note="the zoo's 100,000 steps"),
    Rung("Pendulum-v1", 500_000, -172.2, note="the zoo's 100,000 steps"),
    Rung("LunarLander-v3", 1_000_000, 242.1, note="v2"),
    Rung("HalfCheetah-v5", 1_000_000, 5819.1, note="v3"),
    Rung("Hopper-v5", 1_000_000, 2410.4, note="v3"),
    Rung("MinAtar/Breakout-v1", 500_000),
    Rung("MinAtar/Asterix-v1", 500_000),
    Rung("MiniGrid-Empty-8x8-v0", 100_000, 0.968, note="the zoo's Empty-Random-5x5"),
    Rung("FrozenLake-v1", 200_000),
    Rung("arena", 2_000_000),
    Rung("navigation", 1_000_000),
)
TEST = (
    Rung("Walker2d-v5", 1_000_000, 3478.8, note="v3"),
    Rung("Swimmer-v5", 1_000_000, 281.6, note="v3"),
    Rung("BipedalWalker-v3", 2_000_000, 287.9, note="the zoo's 5,000,000 steps"),
    Rung("LunarLander-v3", 1_000_000, 270.9, {"continuous": True}, note="v2"),
    Rung("MinAtar/Freeway-v1", 500_000),
    Rung("MiniGrid-Unlock-v0", 100_000, 0.963),
    Rung("Taxi-v4", 500_000),
    Rung("arena", 2_000_000, None, {"battery_reward": 0.0, "ore_reward": 0.0}),
)
GROUPS = {"tuning": TUNING, "test": TEST}
RUNGS = {rung.label: rung for group in GROUPS.values() for rung in group}
