"""What was typed becomes what is trained with."""

import ast
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from metta.errors import UserError
from metta.keys import BY_ENVIRONMENT, keys, kinds
from metta.rl.train_config import (
    AGENT_OPTIONS,
    RunConfig,
    TrainConfig,
    changed_keys,
    given_keys,
    going_on,
    gone_keys,
)
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
    """A default in place of what was typed; larger minibatches, and so fewer updates, with more environments."""
    config = run_config(num_envs=4, gamma=0.5, hidden_size=8)
    assert (config.num_envs, config.gamma, config.hidden_size, config.horizon) == (4, 0.5, 8, 128)
    assert config.minibatch_size == run_config(num_envs=64).minibatch_size == 64


def test_every_key_is_used() -> None:
    """A key that is accepted and changes nothing: one that was declared, documented and never read."""
    read = {*AGENT_OPTIONS}  # handed on by their names
    for path in (ROOT / "metta").rglob("*.py"):
        if path.stem not in ("train_config", "defaults"):
            nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
            read |= {node.attr for node in nodes if ast.unparse(node.value).endswith("config")}
    assert {field.name for field in fields(TrainConfig)} - read == set()


def test_a_run_that_lacks_a_key_has_its_default() -> None:
    """KeyError for every run that began before a key was added."""
    saved = asdict(run_config(gamma=0.9))
    del saved["max_grad_norm"], saved["vf_coef"], saved["env_settings"], saved["keep_last"]
    resumed, _ = going_on(saved, 1, TrainConfig(run="a", max_grad_norm=0.5), frozenset({"run", "max_grad_norm"}))
    assert (resumed.run, resumed.gamma, resumed.max_grad_norm, resumed.vf_coef) == ("a", 0.9, 0.5, None)
    for name, started in [("max_grad_norm", "with max_grad_norm=0.5"), ("vf_coef", "without it")]:
        with pytest.raises(UserError) as error:
            going_on(saved, 1, TrainConfig(run="a", max_grad_norm=0.7, vf_coef=0.7), frozenset({name}))
        assert str(error.value) == f"{name}=0.7: run a was started {started}, and keeps that to its end"
    settings = TrainConfig(run="a", env_settings={"max_episode_steps": 3})
    with pytest.raises(UserError, match=r"^env\.max_episode_steps=3: run a was started without it"):
        going_on(saved, 1, settings, given_keys(settings))


def test_a_key_that_is_gone() -> None:
    """TypeError for every run that began before a key was removed."""
    saved = {**asdict(run_config()), "old": 3}
    assert gone_keys(saved) == {"old": 3}
    assert going_on(saved, 1, TrainConfig(run="r"), frozenset()) == (TrainConfig(**asdict(run_config())), None)


def test_the_values_that_are_no_defaults_were_given() -> None:
    """From Python nobody says which keys were typed."""
    config = TrainConfig(run="a", env="arena", env_settings={"size": 9}, seed=0, gamma=0.9, lstm=True, vf_clip=None)
    assert given_keys(config) == {"run", "env", "env.size", "gamma", "lstm"}


def test_an_agents_file_is_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """./mine.py:A refused, for the run was started with mine.py:A; and wherever it lies, once that file has moved."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine.py").touch()
    monkeypatch.chdir(tmp_path)
    saved = asdict(run_config(agent="mine.py:A"))
    for same in ("mine.py:A", "./mine.py:A", f"{tmp_path}/folder/../mine.py:A"):
        assert changed_keys(saved, TrainConfig(run="r", agent=same), frozenset({"agent"})) == {}
    monkeypatch.chdir(tmp_path / "folder")
    assert changed_keys(saved, TrainConfig(run="r", agent="../mine.py:A"), frozenset({"agent"})) == {}
    for other in ("mine.py:A", "../mine.py:B", "mine:A"):
        assert changed_keys(saved, TrainConfig(run="r", agent=other), frozenset({"agent"})).keys() == {"agent"}
    (tmp_path / "mine.py").rename(tmp_path / "folder/mine.py")
    moved = TrainConfig(run="r", agent="mine.py:A")
    assert going_on(saved, 1, moved, frozenset({"agent"}))[0].agent == "mine.py:A"
    assert changed_keys(saved, TrainConfig(run="r", agent="mine.py:B"), frozenset({"agent"})).keys() == {"agent"}


def test_a_run_that_learned_nothing_begins_anew() -> None:
    """A wrong value that can never be taken back; or one of the first attempt that survives in the second."""
    saved = asdict(run_config(clip_coef=5, hidden_size=8))
    again = TrainConfig(run="r", env="CartPole-v1", clip_coef=0.1)
    assert going_on(saved, 0, again, given_keys(again))[0] == again
    again = TrainConfig(run="r", clip_coef=0.1, env_settings={"sutton_barto_reward": True})
    expected = {**saved, "clip_coef": 0.1, "env_settings": {"sutton_barto_reward": True}}
    assert going_on(saved, 0, again, given_keys(again))[0] == TrainConfig(**expected)


def test_another_environment_with_settings_of_its_own() -> None:
    """Its settings held against the environment that the run was started with, which has no such ones."""
    config = TrainConfig(run="r", env="arena", env_settings={"num_agents": 4})
    assert changed_keys(asdict(run_config()), config, given_keys(config)).keys() == {"env", "env.num_agents"}
