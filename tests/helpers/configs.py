"""Configurations for tests of what works with one."""

from typing import Any

from metta.envs.make_env import make_env
from metta.rl.defaults import with_defaults
from metta.rl.train_config import RunConfig, TrainConfig


def run_config(**values: Any) -> RunConfig:
    """Of a small run on CartPole, what is not given decided."""
    env = make_env("CartPole-v1")
    env.close()
    return with_defaults(TrainConfig(**{"run": "r", "env": "CartPole-v1", **values}), env.spec, "cpu")
