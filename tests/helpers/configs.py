"""Configurations for tests of what works with one."""

from typing import Any

from metta.agent.policy_agent import PolicyAgent
from metta.envs.make_env import spec_of
from metta.processes.exchange import Dealt, Exchange
from metta.rl.defaults import with_defaults
from metta.rl.learning.summed_gradients import SummedGradients
from metta.rl.train_config import RunConfig, TrainConfig


def run_config(**values: Any) -> RunConfig:
    """Of a small run on CartPole, what is not given decided."""
    config = TrainConfig(**{"run": "r", "env": "CartPole-v1", **values})
    return with_defaults(config, spec_of(config.env_name), "cpu")


def an_exchange(agent: PolicyAgent, num_shards: int = 1) -> Exchange:
    """Of shards that one process has."""
    size, dealt = SummedGradients.size(agent), Dealt(num_shards, (range(num_shards),), range(num_shards))
    memory = bytearray(Exchange.memory_bytes(dealt, size))
    return Exchange(dealt, size, memory, lambda between: between(), None, "cpu")
