"""Whether a run learns, judged by its own curves; where it does not, the sign of it and the key to try."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST = 30  # epochs in which episodes ended, to judge by
SIGNIFICANT = 3.0  # standard errors
STEADY_KL = 0.1  # of an epoch's update, and more than PPO's clipping lets through in a healthy run
COLLAPSED = 0.05  # of the entropy at first
BLIND = 0.05  # explained variance


class Learned(NamedTuple):
    """What an epoch says of learning."""

    episodic_return: float
    entropy: float
    approx_kl: float
    explained_variance: float


def verdict(epochs: Sequence[Learned]) -> str | None:
    """Say in a line that the return is still, or again, the untrained agent's, why, and which key to try; else None.

    epochs: all since the run began in which episodes ended. None too where they are too few to judge by.
    """
    if len(epochs) < FEWEST:
        return None
    returns = np.array([epoch.episodic_return for epoch in epochs])
    window = max(5, len(returns) // 10)
    means = np.lib.stride_tricks.sliding_window_view(returns, window).mean(1)
    first, now, best = returns[:2].mean(), means[-1], means.max()
    noise = 1.4826 * np.median(np.abs(np.diff(returns))) / math.sqrt(2)
    least = SIGNIFICANT * noise * math.sqrt(1 / 2 + 1 / window)
    if now - first > max(least, (best - first) / 2):
        return None
    still = f"has not left the untrained agent's, {first:.4g}"
    if best - first > least and best - now > least:
        still = f"has fallen back from {best:.4g} to {now:.4g}"
    return f"the return {still}: {_sign(epochs, epochs[-window:])}"


def _sign(epochs: Sequence[Learned], recent: Sequence[Learned]) -> str:
    at_first, entropy = epochs[0].entropy, np.mean([epoch.entropy for epoch in recent])
    divergences = np.array([epoch.approx_kl for epoch in epochs])
    explained = [epoch.explained_variance for epoch in recent if math.isfinite(epoch.explained_variance)]
    if np.mean(divergences > STEADY_KL) > 0.1:
        return (
            f"the policy jumps (approx_kl up to {divergences.max():.2g}); try a lower learning_rate= or target_kl=0.02"
        )
    if 0 <= entropy < COLLAPSED * at_first:
        return f"the policy chooses one action (entropy {entropy:.2g}, {at_first:.2g} at first); try ent_coef=0.01"
    if not explained:
        return "no reward differs from another; see that the environment gives some, and more total_timesteps="
    if (share := np.mean(explained)) < BLIND:
        said = f"the value function explains nothing (explained variance {share:.2f})"
        return f"{said}; try another gamma=, and a longer horizon="
    return "try another learning_rate=, ent_coef= or gamma=, and more total_timesteps="
