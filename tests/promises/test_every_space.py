"""Every kind of space trains, resumes exactly in the middle of episodes, is evaluated and played again."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tests.helpers.doors import assert_same_end, evaluate_and_replay, resume_in_a_fresh_process, train_half_way
from tests.helpers.space_envs import Board, Car, Goal, Lamps, env_name


class Arms(Goal):
    """Actions of two dimensions."""

    action_space = spaces.Box(-1, 1, (2, 2), np.float64)  # type: ignore[arg-type]


ENVS: dict[str, dict[str, Any]] = {
    "FrozenLake-v1": {},
    "Taxi-v4": {},
    "Blackjack-v1": {"horizon": 26},  # which ends in the middle of an episode
    "CliffWalking-v1": {"lstm": True, "env_settings": {"max_episode_steps": 30}},
    env_name(Goal): {},
    f"{__name__}:Arms": {"num_shards": 2},
    env_name(Car): {"num_shards": 2},
    env_name(Lamps): {},
    env_name(Board): {"lstm": True},
}
if importlib.util.find_spec("pettingzoo") is not None:
    ENVS["tests.helpers.parallel_envs:Shift"] = {}
    ENVS["tests.helpers.parallel_envs:Table"] = {"lstm": True, "num_shards": 2}
if importlib.util.find_spec("minigrid") is not None:
    ENVS["MiniGrid-Empty-5x5-v0"] = {"env_settings": {"preprocessing": False}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Runs by their number, and what they ended with; each went on in a fresh process as well."""
    train_dir = tmp_path_factory.mktemp("spaces")
    ends = {env: train_half_way(str(run), env, train_dir, **values) for run, (env, values) in enumerate(ENVS.items())}
    for run in range(len(ENVS)):
        evaluate_and_replay(str(run), train_dir)
    resume_in_a_fresh_process(train_dir, [str(run) for run in range(len(ENVS))])
    return train_dir, ends


@pytest.mark.parametrize("env", ENVS)
def test_interrupted_is_the_same_as_uninterrupted(env: str, trained: tuple[Path, dict[str, Any]]) -> None:
    """A mask, a leaf or one of several choices that is not where it was when the run goes on."""
    train_dir, ends = trained
    assert_same_end(str(list(ENVS).index(env)), train_dir, ends[env])
