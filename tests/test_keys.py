"""Configurations made in Python pass the checks that typed ones do."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metta.errors import UserError
from metta.rl.train_config import TrainConfig


def test_numbers_and_paths_become_plain() -> None:
    """A numpy number or a path in the trainer file, where `metta runs` reads numbers and texts only."""
    given: dict[str, Any] = {"seed": np.int64(3), "learning_rate": np.float32(0.5), "gamma": 1, "train_dir": Path("x")}
    config = TrainConfig(run="a", **given)
    values = (config.seed, config.learning_rate, config.gamma, config.train_dir)
    assert values == (3, 0.5, 1.0, "x")
    assert [type(value) for value in values] == [int, float, float, str]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"num_envs": "8"}, "num_envs=8: not a whole number, as in 2_000_000"),
    ({"num_envs": 8.0}, "num_envs=8.0: not a whole number, as in 2_000_000"),
    ({"num_envs": True}, "num_envs=True: not a whole number, as in 2_000_000"),
    ({"num_envs": 0}, "num_envs=0: must be at least 1"),
    ({"seed": None}, "seed=None: not a whole number, as in 2_000_000"),
    ({"gamma": "0.9"}, "gamma=0.9: not a number"),
    ({"gamma": float("nan")}, "gamma=nan: must be finite"),
    ({"learning_rate": 10**400}, "learning_rate=inf: must be finite"),
    ({"seed": 10**100}, f"seed=1{'0' * 59}...: must be 0 to 4294967295"),
    ({"lstm": 1}, "lstm=1: not true or false"),
    ({"display": "loud"}, "display=loud: not one of auto, rich, plain, none"),
    ({"env": 3}, "env=3: not text, nor a class or a function"),
    ({"env_settings": [1]}, "env_settings=[1]: not a dict"),
]


@pytest.mark.parametrize(("values", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_in_python_is_the_command_lines(values: dict[str, Any], message: str) -> None:
    """A text for a number that fails somewhere in the middle of the first epoch."""
    with pytest.raises(UserError) as error:
        TrainConfig(run="a", **values)
    assert str(error.value) == message


def test_a_number_with_more_digits_than_python_prints() -> None:
    """ValueError: Exceeds the limit (4300 digits) for integer string conversion."""
    with pytest.raises(UserError, match=r"^seed=0x[0-9a-f]{58}\.\.\.: must be 0 to 4294967295$"):
        TrainConfig(run="a", seed=10**5000)


def test_a_configuration_is_plain_data() -> None:
    """One that cannot be sent to a worker process."""
    config = TrainConfig(run="a", env_settings={"size": 3})
    assert pickle.loads(pickle.dumps(config)) == config
