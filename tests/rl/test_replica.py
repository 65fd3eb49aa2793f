"""Data-parallel training: shards that add up to the whole, and failures that say what failed."""

import os
import re
import signal

import pytest
import torch
from torch import nn

from metta.agent.policy_agent import PolicyAgent
from metta.agent.twin_network import TwinNetwork
from metta.envs.env_spec import EnvName, EnvSpec
from metta.errors import EnvError
from metta.rl.learning.common_buffers import CommonBuffers
from metta.rl.learning.minibatches import Minibatches, Part
from metta.rl.learning.ppo import backward
from metta.rl.learning.rollout import Rollout
from metta.rl.learning.summed_gradients import SummedGradients
from metta.rl.one_run import Trainer
from metta.rl.train_config import TrainConfig
from tests.helpers.configs import an_exchange, run_config

CONFIG = run_config(vf_coef=0.5, ent_coef=0.01)
ROWS = 11


def an_agent(lstm):
    torch.manual_seed(0)
    return PolicyAgent(EnvSpec(EnvName("test"), 1, "vector", (3,), "float32", 2), hidden_size=8, lstm=lstm)


def a_batch(agent):
    rollout = Rollout.zeros(agent, 2, ROWS)
    for array in (rollout.observations, rollout.log_probs, rollout.values, rollout.advantages, rollout.returns):
        array.normal_()
    rollout.actions.random_(2)
    return rollout if rollout.state else rollout.independent_steps()


@pytest.mark.parametrize("lstm", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, ROWS])
@pytest.mark.parametrize("num_shards", [2, 3])
@pytest.mark.parametrize("with_twin", [False, True])
def test_shards_add_up_to_the_whole(lstm, size, num_shards, with_twin):
    """Advantages normalised by shard, unequal shards that weigh the same, or an empty one that counts as NaN;
    one minibatch's statistics written over by the next's."""
    agent = an_agent(lstm)
    batch = a_batch(agent)
    twin = TwinNetwork.of(agent) if with_twin else None
    assert lstm or (twin is not None) == with_twin
    rows = batch.values.shape[1]
    parts = dict(enumerate(torch.arange(rows).tensor_split(num_shards)))
    exchange = an_exchange(agent, num_shards)
    batches = {shard: batch.rows(part) for shard, part in parts.items()}
    (dealt,) = Minibatches(batches, rows, size, exchange, seed=1).deal()
    numbers = [torch.cat([parts[shard][part.index] for shard, part in each.parts.items()]) for each in dealt]
    assert sorted(torch.cat(numbers).tolist()) == list(range(rows))
    summed = SummedGradients(agent, exchange, CommonBuffers(agent, exchange)).begin(seed=1)
    for minibatch, index in zip(dealt[:3], numbers, strict=False):  # its two places take turns
        assert minibatch.present == [shard for shard, part in minibatch.parts.items() if len(part.index)]
        for parameter in agent.parameters():
            parameter.grad = None
        std, mean = torch.std_mean(batch.advantages[:, index], correction=0)
        expected = backward(agent, Part(batch, index, mean, std, 1.0), CONFIG, twin)
        whole = [parameter.grad for parameter in agent.parameters()]
        seen = summed(agent, minibatch, CONFIG, twin)
        assert torch.allclose(torch.stack(seen), torch.stack(expected), atol=1e-6)
        for parameter, gradient in zip(agent.parameters(), whole, strict=True):
            assert parameter.grad is not None and gradient is not None
            assert torch.allclose(parameter.grad, gradient, atol=1e-6)


class Mixed(PolicyAgent):
    """Has a parameter in another precision."""

    def __init__(self, env, hidden_size=None, lstm=False):
        super().__init__(env, hidden_size, lstm)
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, observations, state=(), starts=None):
        params, values, state = super().forward(observations, state, starts)
        return params * self.scale.float(), values, state


@pytest.mark.parametrize("num_shards", [1, 2])
def test_parameters_of_two_precisions_learn(num_shards):
    """A RuntimeError in the midst of an update: norms of two types, a gradient of another than its parameter."""
    trainer = a_trainer(agent=f"{__name__}:Mixed", num_shards=num_shards, num_workers=0)
    trainer.run_epoch()
    assert trainer.agent.scale.dtype == torch.float64 and trainer.agent.scale != 1
    trainer.close()


def a_trainer(env="CartPole-v1", **settings):
    settings = {"num_envs": 4, "horizon": 16, "minibatch_size": 32, "num_shards": 2, "num_workers": 1, **settings}
    return Trainer(TrainConfig(run="run", env=env, total_timesteps=10**6, device="cpu", **settings))


@pytest.mark.parametrize("moment", ["collect", "learn"])
def test_a_replica_that_dies_is_named(moment, monkeypatch):
    """Waiting for ever at the next meeting for a process that the system killed."""
    trainer = a_trainer()
    trainer.run_epoch()
    (worker,) = trainer.crew._workers
    call = getattr(trainer.replica, moment)

    def kill(*arguments):
        os.kill(worker._process.pid, signal.SIGKILL)
        return call(*arguments)

    monkeypatch.setattr(trainer.replica, moment, kill)
    text = "^the worker process of environments 2 to 3 of env=CartPole-v1 died: killed by signal 9$"
    with pytest.raises(EnvError, match=text):
        trainer.run_epoch()
    trainer.close()


def test_an_environment_that_fails_in_another_process_has_its_own_number(monkeypatch, tmp_path):
    """An error that names the shard's environment 0 in place of the run's environment 2."""
    (tmp_path / "failing_env.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    trainer = a_trainer("failing_env:Failing-v0")
    with pytest.raises(EnvError) as caught:
        for _ in range(3):
            trainer.run_epoch()
    assert re.fullmatch("environment 2 of env=.*:Failing-v0 failed in the episode of .*: no more .*", str(caught.value))
    trainer.close()


FAILING = """
import sys
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Failing(CartPoleEnv):
    def step(self, action):
        if "pytest" not in sys.modules:  # in a worker
            raise OSError("no more")
        return super().step(action)

gymnasium.register("Failing-v0", Failing)
"""


def test_a_process_more_than_shards_helps_to_step():
    """Processes that nobody uses, or shards that nobody computes."""
    for num_workers, replicas, helpers in ((0, 1, 0), (1, 2, 0), (2, 2, 0), (3, 2, 1)):
        trainer = a_trainer(num_workers=num_workers)
        envs = trainer.replica.collectors[0].envs
        assert (1 + len(trainer.crew._workers), len(envs._workers)) == (replicas, helpers)
        assert len(trainer.replica.collectors) == 2 // replicas
        trainer.close()


def test_no_more_shards_than_environments():
    """A shard without any environment."""
    with pytest.raises(ValueError, match="^num_shards=5: must be at most num_envs=4$"):
        a_trainer(num_shards=5)
