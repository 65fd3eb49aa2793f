"""Proximal Policy Optimization (Schulman et al. 2017, arXiv 1707.06347) with generalized advantage estimation.

Axes: T steps of a rollout, B rows (every agent of every environment). All arrays are float32 unless said otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from metta.agent.distributions import Categorical, Gaussian
from metta.agent.policy_agent import PolicyAgent
from metta.agent.twin_network import TwinNetwork
from metta.moments import Moments
from metta.rl.learning.minibatches import Minibatch, Minibatches, Part
from metta.rl.learning.rollout import Batch
from metta.rl.train_config import RunConfig


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    done: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> np.ndarray:
    """Generalized advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16), `[T, B]`.

    next_values: `successor_values`; done: bool, the episode ended with this step, so nothing flows back from the next.
    """
    advantages = np.empty_like(rewards)
    deltas = rewards + np.float32(gamma) * next_values - values
    decay = np.where(done, np.float32(0), np.float32(gamma * gae_lambda))
    running = np.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        running = deltas[t] + decay[t] * running
        advantages[t] = running
    return advantages


def successor_values(
    values: np.ndarray,
    last_values: np.ndarray,
    bootstrap_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
) -> np.ndarray:
    """The value of the state that each step led to, `[T, B]`.

    last_values `[B]` are those of the observations after the last step. An episode that terminated is worth nothing
    after its end; one that was truncated is worth bootstrap_values `[T, B]`, the value of its final observation.
    """
    next_values = np.concatenate((values[1:], last_values[None]))
    return np.where(terminated, 0, np.where(truncated, bootstrap_values, next_values))


def explained_variance(moments: Moments) -> float:
    """1 - Var[errors] / Var[returns], from the moments of both; 1 is a perfect critic, 0 one that knows nothing.

    NaN: no variance.
    """
    errors, returns = moments.m2
    return float("nan") if returns == 0 else float(1 - errors / returns)


class Statistics(NamedTuple):
    """What is logged of a minibatch: means over its steps, each a tensor `[]`."""

    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


def ppo_loss(
    distribution: Categorical | Gaussian, params: Tensor, values: Tensor, batch: Batch, config: RunConfig
) -> tuple[Tensor, Statistics]:
    """PPO's loss (equations 7 and 9), a mean over the steps of the batch, whose advantages are normalised.

    params `[T, B, P]` and values `[T, B]` are what the agent says now; the batch has what it said in the rollout.
    TwinNetwork has the gradient worked out by hand: another loss needs another one there, or steps around it as loss=.
    """
    log_probs, entropy = distribution.score(params, batch.actions)
    log_ratio = log_probs - batch.log_probs
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip_coef, 1 + config.clip_coef)
    policy_loss = -torch.minimum(ratio * batch.advantages, clipped * batch.advantages).mean()

    errors = (values - batch.returns).square()
    if config.vf_clip is not None:
        clipped_values = batch.values + (values - batch.values).clamp(-config.vf_clip, config.vf_clip)
        errors = torch.maximum(errors, (clipped_values - batch.returns).square())
    value_loss = 0.5 * errors.mean()

    loss = policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy.mean()
    return loss, Statistics(
        policy_loss=policy_loss,
        value_loss=value_loss,
        entropy=entropy.mean(),
        approx_kl=(ratio - 1 - log_ratio).mean(),  # Schulman's estimator k3, joschu.net/blog/kl-approx.html
        clip_fraction=(ratio != clipped).float().mean(),
    )


def backward(agent: PolicyAgent, part: Part, config: RunConfig, twin: TwinNetwork | None = None) -> Statistics:
    """Backpropagate the loss of a part of a minibatch, so that the parts' gradients add up to the whole's.

    Returns the part's share of the minibatch's statistics.
    """
    if part.share == 0:
        return Statistics(*torch.zeros(len(Statistics._fields), device=part.index.device))
    rows = part.rows()
    if twin is not None:
        return Statistics(**twin.backward(rows, config, part.share))
    params, values, _ = agent(rows.observations, rows.state, rows.starts)
    rows, params, values = rows.present_steps(params, values)
    compute: Any = config.loss or ppo_loss
    loss, statistics = compute(agent.distribution, params, values, rows, config)
    (loss * part.share).backward()
    return Statistics(*(value.detach() * part.share for value in statistics))


def backward_alone(
    agent: PolicyAgent, minibatch: Minibatch, config: RunConfig, twin: TwinNetwork | None = None
) -> Statistics:
    """`backward` where one shard has it all."""
    (part,) = minibatch.parts.values()
    return backward(agent, part, config, twin)


Gradients = Callable[[PolicyAgent, Minibatch, RunConfig, TwinNetwork | None], Statistics]


@torch.enable_grad()  # whatever an environment has switched off
def update(
    agent: PolicyAgent,
    optimizer: Any,
    minibatches: Minibatches,
    config: RunConfig,
    gradients: Gradients = backward_alone,
) -> dict[str, float]:
    """Improve the agent on one rollout; returns the means of the minibatches' statistics, each before its step.

    gradients: adds one minibatch's to the parameters' .grad. target_kl ends the update after the pass over the data in
    which the mean approximate KL divergence passed it.
    """
    parameters = list(agent.parameters())
    twin = TwinNetwork.of(agent) if config.loss is None else None
    statistics: list[Statistics] = []
    for dealt in passes(minibatches, config):
        for minibatch in dealt:
            for parameter in parameters:
                parameter.grad = None
            statistics.append(gradients(agent, minibatch, config, twin))
            if twin is not None and config.optimizer is None:
                twin.step(optimizer, config.max_grad_norm)
            else:
                nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
                optimizer.step()
        if config.target_kl is not None and means(statistics[-len(dealt) :])["approx_kl"] > config.target_kl:
            break
    return means(statistics)


def passes(minibatches: Minibatches, config: RunConfig) -> Iterator[list[Minibatch]]:
    """Deal update_epochs passes: several at once, since the processes meet for it; or one, if it may be the last."""
    at_once = 16 if config.target_kl is None else 1
    for first in range(0, config.update_epochs, at_once):
        yield from minibatches.deal(min(at_once, config.update_epochs - first))


def means(statistics: Sequence[Statistics]) -> dict[str, float]:
    """Each statistic's mean over the minibatches."""
    table = torch.stack([torch.stack(minibatch) for minibatch in statistics])
    return dict(zip(Statistics._fields, table.mean(0).tolist(), strict=True))
