"""Proximal Policy Optimization (Schulman et al. 2017, arXiv 1707.06347) as pure functions on tensors.

Axes: T steps of a rollout, B rows (every agent of every environment). All arrays are float32 unless said otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from metta.agent.distributions import Categorical, Gaussian
from metta.agent.policy_agent import PolicyAgent, State
from metta.rl.learning.adam import Adam


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    last_values: np.ndarray,
    bootstrap_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalized advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16), `[T, B]`.

    last_values `[B]` are those of the observations after the last step. An episode that terminated is worth nothing
    after its end; one that was truncated is worth bootstrap_values `[T, B]`, the value of its final observation.
    """
    advantages = np.empty_like(rewards)
    done = terminated | truncated
    next_values = np.concatenate((values[1:], last_values[None]))
    next_values = np.where(done, np.where(terminated, 0, bootstrap_values), next_values)
    deltas = rewards + np.float32(gamma) * next_values - values
    decay = np.where(done, np.float32(0), np.float32(gamma * gae_lambda))
    running = np.zeros_like(last_values)
    for t in reversed(range(len(rewards))):
        running = deltas[t] + decay[t] * running
        advantages[t] = running
    return advantages


def gradient_scale(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """What to divide the gradients by, so that their norm is at most max_norm.

    Adam divides as it goes, in a third of the time of `clip_grad_norm_` and a pass over the gradients less.
    """
    norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
    return (torch.linalg.vector_norm(torch.stack(norms)) / max_norm).clamp_(min=1)


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """1 - Var[returns - values] / Var[returns]; 1 is a perfect critic, 0 one that knows nothing. NaN: no variance."""
    variance = returns.var(dtype=np.float64)
    return float("nan") if variance == 0 else float(1 - (returns - values).var(dtype=np.float64) / variance)


@dataclass(frozen=True)
class PPOConfig:
    """The coefficients of one update; the names are the command line's."""

    clip_coef: float
    vf_coef: float
    vf_clip: float | None
    ent_coef: float
    max_grad_norm: float
    target_kl: float | None
    update_epochs: int
    minibatch_size: int


@dataclass
class Batch:
    """A rollout to learn from; every tensor is `[T, B, ...]`, state is that before the first step, `[B, ...]`."""

    observations: Tensor
    starts: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    state: State

    def rows(self, index: Tensor) -> "Batch":
        """The minibatch of these rows."""
        state = tuple(s.index_select(0, index) for s in self.state)
        return self._each(lambda tensor: tensor.index_select(1, index), state)

    def independent_steps(self) -> "Batch":
        """The same steps as `[1, T * B, ...]`: for agents without memory any step may join any minibatch."""
        return self._each(lambda tensor: tensor.flatten(0, 1).unsqueeze(0), ())

    def _each(self, function: Callable[[Tensor], Tensor], state: State) -> "Batch":
        tensors = {name: value for name, value in vars(self).items() if name != "state"}
        return Batch(**{name: function(tensor) for name, tensor in tensors.items()}, state=state)


STATS = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction")
Gradients = Callable[[PolicyAgent, Batch, Tensor, PPOConfig], Tensor]


def backward(
    agent: PolicyAgent, batch: Batch, index: Tensor, config: PPOConfig, shard: int = 0, num_shards: int = 1
) -> Tensor:
    """Add the gradients of the minibatch `index`, or of its `shard` out of num_shards: the shards' sum is the whole's.

    Returns STATS, of the shard its share.
    """
    std, mean = torch.std_mean(batch.advantages.index_select(1, index), correction=0)
    mine = index.tensor_split(num_shards)[shard] if num_shards > 1 else index
    if len(mine) == 0:
        return torch.zeros(len(STATS), device=index.device)
    minibatch = batch.rows(mine)
    minibatch.advantages = (minibatch.advantages - mean) / (std + 1e-8)
    params, values, pull_back = agent.with_pullback(minibatch.observations, minibatch.state, minibatch.starts)
    weight = 1 / (len(index) * len(minibatch.values))  # of every step in the whole minibatch
    d_params, d_values, stats = loss_gradients(agent.distribution, params, values, minibatch, config, weight)
    pull_back(d_params, d_values)
    return stats


@torch.no_grad()
def loss_gradients(
    distribution: Categorical | Gaussian,
    params: Tensor,
    values: Tensor,
    batch: Batch,
    config: PPOConfig,
    weight: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a loss with respect to params and values, and STATS: sums over the steps, each times `weight`.

    The loss of a step, with r the ratio of its action's probability to what it was and A its (normalised) advantage:

        -min(r A, clip(r, 1 - clip_coef, 1 + clip_coef) A)        PPO, equation 7
        + vf_coef / 2 (value - return)^2                          with vf_clip the larger of it and that of the value
                                                                  clipped around the old one
        - ent_coef entropy

    Derived by hand: of small networks autograd's share of the time would be larger than the network's.
    """
    log_prob, entropy, pull_back = distribution.score(params, batch.actions)
    log_ratio = log_prob - batch.log_probs
    change = log_ratio.expm1()  # r - 1
    clipped = change.clamp(-config.clip_coef, config.clip_coef)
    gain, clipped_gain = (torch.addcmul(batch.advantages, c, batch.advantages) for c in (change, clipped))
    d_log_prob = gain.masked_fill(gain > clipped_gain, 0).mul_(-weight)
    d_params = pull_back(d_log_prob, -config.ent_coef * weight)

    error = d_error = values - batch.returns
    if config.vf_clip is not None:
        moved = values - batch.values
        clipped_error = batch.values + moved.clamp(-config.vf_clip, config.vf_clip) - batch.returns
        clips = clipped_error.abs() > error.abs()
        d_error = torch.where(clips, clipped_error * (moved.abs() <= config.vf_clip), error)
        error = torch.where(clips, clipped_error, error)
    stats = torch.stack(
        (
            -torch.minimum(gain, clipped_gain),
            0.5 * error.square(),
            entropy,
            change - log_ratio,  # Schulman's low-variance estimator, joschu.net/blog/kl-approx.html (k3)
            change != clipped,
        )
    )
    return d_params, d_error * (config.vf_coef * weight), stats.flatten(1).sum(1) * weight


def update(
    agent: PolicyAgent,
    optimizer: Adam,
    batch: Batch,
    config: PPOConfig,
    generator: torch.Generator | None = None,
    gradients: Gradients = backward,
) -> dict[str, float]:
    """Improve the agent on one rollout; returns the means over its minibatches, as they were before each step.

    generator: deals the minibatches. gradients: computes one's.

    With recurrent state a minibatch is whole rows of T steps, otherwise any steps. target_kl ends the update after
    the pass over the data in which the mean approximate KL divergence passed it.
    """
    if not batch.state:
        batch = batch.independent_steps()
    steps, rows = batch.advantages.shape
    rows_per_minibatch = max(1, config.minibatch_size // steps)
    parameters = list(agent.parameters())
    totals = torch.zeros(len(STATS), device=batch.values.device)
    minibatches = 0
    for _ in range(config.update_epochs):
        kl_before, minibatches_before = totals[3].clone(), minibatches
        order = torch.randperm(rows, generator=generator).to(batch.values.device)
        for index in order.split(rows_per_minibatch):
            for parameter in parameters:
                parameter.grad = None  # what optimizer.zero_grad does, without its 50 microseconds of profiling hooks
            totals += gradients(agent, batch, index, config)
            optimizer.scaled_step(gradient_scale(parameters, config.max_grad_norm))
            minibatches += 1
        mean_kl = (totals[3] - kl_before) / (minibatches - minibatches_before)
        if config.target_kl is not None and mean_kl.item() > config.target_kl:
            break
    return dict(zip(STATS, (totals / minibatches).tolist(), strict=True))
