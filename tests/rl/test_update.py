"""Whole updates against PPO as the paper has it: autograd, torch.optim.Adam, clip_grad_norm_, and nothing of metta's
but the agent's forward."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metta.rl.one_run import Trainer
from metta.rl.train_config import TrainConfig
from tests.helpers.internals import record_passes, rollout_of
from tests.helpers.plain_distributions import distribution
from tests.helpers.small_envs import Lengths, env_id

EPOCHS, PASSES, ENVS, STEPS = 3, 3, 5, 8
# The last epoch's rate is a third of the first's; a pass is no whole number of minibatches.
SETTINGS: dict[str, Any] = {
    "run": "r",
    "env": env_id(Lengths),
    "seed": 1,
    "device": "cpu",
    "total_timesteps": EPOCHS * ENVS * STEPS,
    "num_envs": ENVS,
    "num_workers": 0,
    "horizon": STEPS,
    "minibatch_size": 2 * STEPS,
    "update_epochs": PASSES,
    "learning_rate": 0.01,
    "ent_coef": 0.02,
    "vf_coef": 0.7,
    "max_grad_norm": 0.8,
    "hidden_size": 8,
}


def forward(agent, rollout, index, lstm):
    """params and values of a minibatch; with an LSTM `[T, rows, ...]`, step by step from the rollout's first state."""
    if not lstm:
        return agent(rollout.observations.flatten(0, 1)[index])[:2]
    state = tuple(tensor[index] for tensor in rollout.state)
    params, values = [], []
    for observations, starts in zip(rollout.observations[:, index], rollout.starts[:, index], strict=True):
        state = tuple(tensor * ~starts[:, None] for tensor in state)
        param, value, state = agent(observations, state)
        params.append(param)
        values.append(value)
    return torch.stack(params), torch.stack(values)


def loss_of(agent, rollout, index, config):
    """PPO's loss of a minibatch, and what is logged of it."""

    def part(name):
        array = getattr(rollout, name)
        return array[:, index] if config.lstm else array.flatten(0, 1)[index]

    params, values = forward(agent, rollout, index, config.lstm)
    chances = distribution(params, config.env_settings.get("continuous", False))
    log_ratio = chances.log_prob(part("actions")) - part("log_probs")
    ratio = log_ratio.exp()
    advantages = part("advantages")
    advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    clipped = ratio.clamp(1 - config.clip_coef, 1 + config.clip_coef)
    policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
    errors = (values - part("returns")).square()
    if config.vf_clip is not None:
        near = part("values") + (values - part("values")).clamp(-config.vf_clip, config.vf_clip)
        errors = torch.maximum(errors, (near - part("returns")).square())
    value_loss, entropy = errors.mean() / 2, chances.entropy().mean()
    loss = policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy
    kl = (ratio - 1 - log_ratio).mean()
    beyond = ((ratio - 1).abs() > config.clip_coef).float().mean()
    logged = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
    logged |= {"approx_kl": kl, "clip_fraction": beyond}
    return loss, {name: value.item() for name, value in logged.items()}


def update(agent, optimizer, rollout, passes, config):
    """One epoch's update, with the minibatches of each pass; returns what is logged, and the gradients' lengths.

    AssertionError where target_kl asks for another number of passes.
    """
    logged, lengths = [], []
    for number, minibatches in enumerate(passes, 1):
        divergences = []
        for index in minibatches:
            loss, of_this = loss_of(agent, rollout, index, config)
            optimizer.zero_grad()
            loss.backward()
            lengths.append(nn.utils.clip_grad_norm_(agent.parameters(), config.max_grad_norm).item())
            optimizer.step()
            logged.append(of_this)
            divergences.append(of_this["approx_kl"])
        enough = config.target_kl is not None and np.mean(divergences) > config.target_kl
        assert (number == len(passes)) == (enough or number == PASSES)
    return logged, lengths


def means(logged):
    return {name: np.mean([one[name] for one in logged]) for name in logged[0]}


CASES: dict[str, dict[str, Any]] = {
    "discrete": {},
    "box": {"env_settings": {"continuous": True}, "vf_clip": 0.1},
    "lstm": {"lstm": True, "vf_clip": 0.1, "clip_coef": 0.05, "max_grad_norm": 0.3},
    "lstm box": {"lstm": True, "env_settings": {"continuous": True}},
    "two shards": {"num_shards": 2, "env_settings": {"continuous": True}, "max_grad_norm": 1.5},
    "two shards lstm": {"num_shards": 2, "lstm": True, "max_grad_norm": 0.5},
    "steady": {"anneal_lr": False, "ent_coef": 0.0},
    "target_kl": {"target_kl": 0.002},
}


@pytest.mark.parametrize("case", CASES)
def test_three_updates_are_those_of_autograd_and_torch_s_adam(case, monkeypatch):
    """Advantages not normalised; a gradient that nothing limits; an annealed rate that never reaches Adam; minibatches
    always dealt alike; a term of the loss with the wrong sign, weight or derivative; rows that miss their states."""
    trainer = Trainer(TrainConfig(**{**SETTINGS, **CASES[case]}))
    config = trainer.config
    plain = copy.deepcopy(trainer.agent)
    optimizer = torch.optim.Adam(plain.parameters(), eps=1e-5)
    passes, orders, lengths = record_passes(monkeypatch, 1 if config.lstm else STEPS), [], []
    size = config.minibatch_size // STEPS if config.lstm else config.minibatch_size
    for epoch in range(EPOCHS):
        passes.clear()
        scalars = trainer.run_epoch()
        rollout = rollout_of(trainer)
        items = ENVS if config.lstm else ENVS * STEPS
        assert passes and all(sorted(torch.cat(dealt).tolist()) == list(range(items)) for dealt in passes)
        for dealt in passes:
            count = -(-items // size)
            assert count - config.num_shards < len(dealt) <= count
            assert max(abs(len(index) - items / count) for index in dealt) < config.num_shards  # each rounds by itself
        orders += [tuple(torch.cat(dealt).tolist()) for dealt in passes]
        optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - epoch / EPOCHS if config.anneal_lr else 1)
        logged, of_these = update(plain, optimizer, rollout, passes, config)
        lengths += of_these
        for (name, parameter), expected in zip(trainer.agent.named_parameters(), plain.parameters(), strict=True):
            assert torch.allclose(parameter, expected, atol=1e-5), (epoch, name)
        assert {name: scalars[f"losses/{name}"] for name in logged[0]} == pytest.approx(means(logged), abs=1e-5)
        for buffer, other in zip(trainer.agent.buffers(), plain.buffers(), strict=True):
            other.copy_(buffer)  # the observations' running mean and deviation, which are no part of this
    trainer.close()
    assert len(set(orders)) >= len(orders) - 1  # of 5 rows two may be dealt alike by chance
    assert min(lengths) < config.max_grad_norm < max(lengths)
    if config.target_kl is not None:
        assert EPOCHS < len(orders) < EPOCHS * PASSES
