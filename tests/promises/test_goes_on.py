"""What is shown beside training never costs training; numbers that are not finite end it before they are saved."""

import sqlite3
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from metta.errors import EnvError, TrainingError
from metta.rl.display.curves import CurveWriter
from metta.rl.display.panel import RichProgress
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.rl.trainer import train
from tests.helpers.commands import run_in

ARGUMENTS = ["num_envs=2", "horizon=16", "minibatch_size=16", "update_epochs=1", "hidden_size=4"]
SMALL: dict[str, Any] = {name: int(value) for name, _, value in (argument.partition("=") for argument in ARGUMENTS)}


class Faulty(gymnasium.Env):
    """Gives `number` as a reward or in an observation at step `at` of the second episode."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, what: str, number: float, at: int):
        self.what, self.number, self.at, self.episodes = what, number, at, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episodes, self.steps = self.episodes + 1, 0
        return self.observe(), {}

    def observe(self):
        observation = self.np_random.random(3, dtype=np.float32)
        if self.what == "observation" and self.episodes == 2 and self.steps == self.at:
            observation[1] = self.number
        return observation

    def step(self, action):
        self.steps += 1
        spoilt = self.what == "reward" and self.episodes == 2 and self.steps == self.at
        return self.observe(), self.number if spoilt else 1.0, self.steps == 40, False, {}


@pytest.fixture
def faulty():
    gymnasium.register("Faulty-v0", lambda **settings: Faulty(**settings))
    yield "Faulty-v0"
    del gymnasium.registry["Faulty-v0"]


@pytest.mark.parametrize("what", ["reward", "observation"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("at", [0, 1, 40])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_number_that_is_not_finite_ends_the_run(tmp_path, capsys, faulty, what, number, at):
    """One NaN reward left every later checkpoint with NaN weights, "complete", and retention deleted the sound ones."""
    if (what, at) == ("reward", 0):
        return
    settings = {"what": what, "number": number, "at": at}
    config = TrainConfig(
        run="r", env=faulty, env_settings=settings, total_timesteps=3200, checkpoint_interval=1, keep_last=1,
        train_dir=str(tmp_path), num_workers=0, device="cpu", display="plain", **SMALL,
    )  # fmt: skip
    with pytest.raises(
        EnvError, match=rf"environment 0 of env=Faulty-v0 gave -?(nan|inf) in an? {what} at step {at} of"
    ) as e:
        train(config)
    manager = TinyCheckpointManager("r", tmp_path)
    (epoch,) = manager.list_epochs()
    assert f"epoch {epoch} is saved: the same command goes on from there" in str(e.value)
    assert "run=r stopped\n" in capsys.readouterr().err
    assert all(parameter.isfinite().all() for parameter in manager.load_agent(epoch).state_dict().values())


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    """A diverged run went on to the end, saved NaN over its last sound checkpoint, and said "complete"."""
    clip = torch.nn.utils.clip_grad_norm_
    calls = []

    def spoil(parameters, *arguments):
        parameters = list(parameters)
        calls.append(1)
        if len(calls) == 6:
            parameters[0].grad[0] = torch.nan
        return clip(parameters, *arguments)

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", spoil)
    config = TrainConfig(
        run="r", env="CartPole-v1", lstm=True, total_timesteps=3200, checkpoint_interval=1, keep_last=2,
        train_dir=str(tmp_path), num_workers=0, device="cpu", display="none", **SMALL,
    )  # fmt: skip
    with pytest.raises(TrainingError, match="epoch 3 made .* infinite or NaN: a lower learning_rate= than"):
        train(config)
    assert TinyCheckpointManager("r", tmp_path).list_epochs() == [1, 2]


def garbage(path: Path) -> None:
    path.write_text("garbage")


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("spoil", [garbage, newer, folder])
def test_a_score_database_that_cannot_be_read_costs_nothing(tmp_path, spoil):
    """Garbage in eval.db ended training at the next drawing, with all epochs since the last checkpoint lost."""
    spoil(tmp_path / "eval.db")
    command = [sys.executable, "-m", "metta.tools.main", "train", "run=r", "env=CartPole-v1", f"train_dir={tmp_path}"]
    command += ["total_timesteps=320", "checkpoint_interval=1", "keep_last=2", *ARGUMENTS]
    _, said = run_in(tmp_path, command)
    assert said.count("no checkpoint is deleted, and training goes on") == 1 and "complete: epoch 10" in said
    assert TinyCheckpointManager("r", tmp_path).list_epochs() == list(range(11))


@pytest.mark.parametrize("place, method, what", [(CurveWriter, "add", "curves"), (RichProgress, "_draw", "progress")])
def test_a_display_that_fails_is_left_out(tmp_path, monkeypatch, capsys, place, method, what):
    """A closed terminal or a TensorBoard file that cannot be written ended training."""

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(place, method, fail)
    config = TrainConfig(
        run="r", env="CartPole-v1", total_timesteps=320, train_dir=str(tmp_path), display="rich", num_workers=0, **SMALL
    )
    assert train(config) == 0
    said = capsys.readouterr().err
    assert said.count(f"run=r shows no {what} from now on, and trains on: OSError: [Errno 5]") == 1
    assert TinyCheckpointManager("r", tmp_path).list_epochs() == [0, 10]
