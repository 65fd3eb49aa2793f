"""Configurations for tests of what works with one."""

from typing import Any

from metta.envs.make_env import spec_of
from metta.rl.defaults import with_defaults
from metta.rl.train_config import RunConfig, TrainConfig


def run_config(**values: Any) -> RunConfig:
    """Of a small run on CartPole, what is not given decided."""
    config = TrainConfig(**{"run": "r", "env": "CartPole-v1", **values})
    return with_defaults(config, spec_of(config.env_name), "cpu")
