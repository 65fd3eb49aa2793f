"""What was typed becomes what is trained with."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from metta.errors import UserError
from metta.keys import BY_ENVIRONMENT, keys, kinds
from metta.rl.train_config import RunConfig, TrainConfig
from tests.helpers.configs import run_config

ROOT = Path(__file__).parents[2]


def test_everything_is_decided() -> None:
    """A None in the middle of training, where the type promises a number."""
    undecided = {name for name, (_, optional) in kinds(TrainConfig).items() if optional}
    decided = undecided - {name for name, (_, optional) in kinds(RunConfig).items() if optional}
    by_environment = {name for name, field in keys(TrainConfig).items() if field.metadata["unset"] == BY_ENVIRONMENT}
    assert decided == (by_environment & undecided) - {"hidden_size"} | {"env"}
    with pytest.raises(UserError, match="^total_timesteps=None: not a whole number"):
        RunConfig(run="a", env="arena")


def test_what_was_given_stays() -> None:
    """A default in place of what was typed; minibatches of the default rollout, not of the one that was asked for."""
    config = run_config(num_envs=4, gamma=0.5, hidden_size=8)
    assert (config.num_envs, config.gamma, config.hidden_size, config.horizon) == (4, 0.5, 8, 128)
    assert config.minibatch_size == 4 * 128 // 4


def test_every_key_is_used() -> None:
    """A key that is accepted and changes nothing: one that was declared, documented and never read."""
    read = set()
    for path in (ROOT / "metta").rglob("*.py"):
        if path.stem not in ("train_config", "defaults"):
            nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
            read |= {node.attr for node in nodes if ast.unparse(node.value).endswith("config")}
    assert {field.name for field in fields(TrainConfig)} - read == set()
