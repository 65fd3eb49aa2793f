"""Steps without an agent change nothing that is learned, counted or normalised."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvName, EnvSpec, Leaf
from metta.rl.learning.minibatches import Minibatches
from metta.rl.learning.ppo import backward
from metta.rl.learning.reward_scaler import RewardScaler
from metta.rl.learning.rollout import Batch
from metta.rl.one_run import Trainer
from metta.rl.train_config import TrainConfig
from tests.helpers.configs import an_exchange, run_config

LEAVES = (Leaf((), "vector", (3,), "float32"),)
SPEC = EnvSpec(EnvName("e"), 1, "composite", (4,), "float32", 3, leaves=LEAVES, agents_vary=True)
STEPS, ROWS = 4, 10


def a_batch(agent: PolicyAgent, present: torch.Tensor) -> Batch:
    """A rollout of noise; where nobody is, what is left in the arrays."""
    torch.manual_seed(1)
    numbers: dict[str, Any] = {
        name: torch.randn(STEPS, ROWS) for name in ("log_probs", "values", "advantages", "returns")
    }
    observations = torch.cat((torch.randn(STEPS, ROWS, 3), present.float().unsqueeze(-1)), -1)
    for array in (*numbers.values(), observations[..., :3]):
        array[~present] = 1e6  # a view of the numbers: whatever counts them is far off
    numbers["log_probs"][present] -= 1.5
    actions, starts = torch.randint(3, (STEPS, ROWS)), torch.zeros(STEPS, ROWS, dtype=torch.bool)
    state = agent.initial_state(ROWS)
    return Batch(
        observations=observations, actions=actions, starts=starts, state=state, agents_vary=True, **numbers
    )  # fmt: skip


def gradients(agent: PolicyAgent, *shards: Batch) -> dict[str, torch.Tensor]:
    """Of all steps as one minibatch, and the statistics."""
    rows = sum(shard.values.shape[1] for shard in shards)
    exchange = an_exchange(agent, len(shards))
    ((minibatch,),) = Minibatches(dict(enumerate(shards)), rows, rows, exchange, seed=0).deal()
    agent.zero_grad()
    parts = [backward(agent, part, run_config(ent_coef=0.1, vf_clip=0.2)) for part in minibatch.parts.values()]
    statistics = {name: sum(getattr(part, name) for part in parts) for name in parts[0]._fields}
    return {**{name: p.grad.clone() for name, p in agent.named_parameters() if p.grad is not None}, **statistics}


@pytest.mark.parametrize("lstm", [False, True], ids=["feedforward", "lstm"])
def test_absent_rows_change_no_gradient(lstm: bool) -> None:
    """An advantage's mean, a share or a loss over steps in which nobody acted: the same batch without them differs."""
    torch.manual_seed(0)
    agent = PolicyAgent(SPEC, hidden_size=8, lstm=lstm)
    present = torch.ones(STEPS, ROWS, dtype=torch.bool)
    present[:, 6:] = False  # four agents that never come
    batch = a_batch(agent, present)
    shards = [batch, batch.rows(torch.arange(6)), *(batch.rows(part) for part in torch.arange(ROWS).split(4))]
    if not lstm:
        shards = [shard.independent_steps() for shard in shards]
    whole, few, *thirds = shards  # of the last third nobody is there
    expected = gradients(agent, few)
    torch.testing.assert_close(gradients(agent, whole), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients(agent, *thirds), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lstm", [False, True], ids=["feedforward", "lstm"])
def test_steps_before_and_after_an_agent_change_no_gradient(lstm: bool) -> None:
    """Whatever stands in an absent agent's row must not matter, in the middle of another's sequence either."""
    torch.manual_seed(0)
    agent = PolicyAgent(SPEC, hidden_size=8, lstm=lstm)
    present = torch.rand(STEPS, ROWS) < 0.5
    batch = a_batch(agent, present)
    batch.starts[1:] = ~present[:-1]  # as the collector has it: who is not there counts as done
    other = replace(batch, **{name: getattr(batch, name).clone() for name in ("observations", "advantages", "returns")})
    for name in ("observations", "advantages", "returns"):
        array = getattr(other, name)
        (array[..., :3] if array.dim() == 3 else array)[~present] = -7.0
    if not lstm:
        batch, other = batch.independent_steps(), other.independent_steps()
    first, second = gradients(agent, batch), gradients(agent, other)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_minibatch_without_anybody_is_nothing() -> None:
    """NaN from the mean of nothing, which ends the training."""
    agent = PolicyAgent(SPEC, hidden_size=8)
    batch = a_batch(agent, torch.zeros(STEPS, ROWS, dtype=torch.bool)).independent_steps()
    assert Minibatches({0: batch}, STEPS * ROWS, 7, an_exchange(agent), seed=0).deal() == [[]]


def test_statistics_are_of_who_is_there() -> None:
    """A normaliser, or a reward's scale, made of the zeros in rows without an agent."""
    torch.manual_seed(0)
    agent, few = PolicyAgent(SPEC, hidden_size=8), PolicyAgent(SPEC, hidden_size=8)
    present = torch.rand(STEPS, ROWS) < 0.5
    observations = torch.cat((torch.randn(STEPS, ROWS, 3), present.float().unsqueeze(-1)), -1)
    agent.update_normalizers(observations)
    few.update_normalizers(observations[present].unsqueeze(0))
    for name, value in agent.encoder.normalizer.state_dict().items():
        assert torch.equal(value, few.encoder.normalizer.state_dict()[name])
    assert agent.encoder.normalizer.count == present.sum()

    rewards = np.random.default_rng(0).normal(size=(STEPS, ROWS)).astype(np.float32)
    rewards[:, 6:], done = 0, np.zeros((STEPS, ROWS), bool)
    there = np.broadcast_to(np.arange(ROWS) < 6, rewards.shape)
    with_absent, without = RewardScaler([ROWS], 0.9), RewardScaler([6], 0.9)
    (scaled,) = with_absent([(rewards, done)], np.asarray, [there])
    (few_scaled,) = without([(np.ascontiguousarray(rewards[:, :6]), done[:, :6])], np.asarray, [...])
    assert np.array_equal(scaled[:, :6], few_scaled)


def test_steps_are_counted_where_somebody_acts(tmp_path: Any) -> None:
    """total_timesteps, and steps per second, of agents that were not there."""
    pytest.importorskip("pettingzoo")
    shift = "tests.helpers.parallel_envs:Shift"
    trainer = Trainer(TrainConfig(run="r", env=shift, num_envs=2, horizon=7, train_dir=str(tmp_path), num_workers=0))
    trainer.run_epoch()
    acted = int(trainer.replica.rollouts[0].present.sum())  # type: ignore[union-attr]
    assert trainer.agent_steps == acted and 2 * 7 * 2 < acted < 2 * 7 * 4
    trainer.close()
