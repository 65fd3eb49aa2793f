"""A run interrupted and resumed ends with the same bits as one left alone, and the test is shown able to fail."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from metta.agent.policy_agent import PolicyAgent
from metta.envs.make_env import spec_of
from metta.eval.eval_db import EvalDB
from metta.eval.policy_evaluator import PolicyEvaluator
from metta.rl.learning.random_state import seed_everything
from metta.rl.one_run import Trainer, load_trainer
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.rl.trainer import train
from tests.helpers.exact import curves, differences, run_epochs

N = 3  # epochs before the interruption, and after it
SETTINGS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"num_envs": 4, "horizon": 40, "minibatch_size": 80},
    "Pendulum-v1": {"num_envs": 4, "horizon": 77, "minibatch_size": 77},
    "arena": {"num_envs": 2, "horizon": 24, "minibatch_size": 288, "env_settings": {"max_steps": 40}},
    "navigation": {"num_envs": 2, "horizon": 24, "minibatch_size": 96, "env_settings": {"max_steps": 40}},
}
FAST = [("CartPole-v1", True, 2), ("Pendulum-v1", False, 0), ("arena", False, 2), ("navigation", True, 0)]
ALL = [(env, lstm, workers) for env in SETTINGS for lstm in (False, True) for workers in (0, 2)]


def make_config(env, run, train_dir, lstm=False, workers=0, num_shards=None, agent=None):
    settings = SETTINGS[env]
    agents = {"arena": 24, "navigation": 8}.get(env, 1)
    total = 2 * N * settings["num_envs"] * settings["horizon"] * agents
    return TrainConfig(
        run=run,
        env=env,
        train_dir=str(train_dir),
        lstm=lstm,
        num_workers=workers,
        num_shards=num_shards,
        agent=agent,
        total_timesteps=total,
        hidden_size=16,
        update_epochs=2,
        checkpoint_interval=1,
        seed=5,
        device="cpu",
        display="none",
        **settings,
    )


def final_state(manager):
    """Agent and trainer state of the newest checkpoint, without the configuration, which names the run."""
    epoch, agent, state = manager.load_latest()
    del state["config"]
    return epoch, agent, state


@pytest.mark.parametrize(
    ("env", "lstm", "workers"),
    [pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow) for case in ALL],
)
def test_interrupted_is_the_same_as_uninterrupted(env, lstm, workers, tmp_path):
    """State forgotten between two processes: every tensor, generator, logged return and evaluation row is compared."""
    straight = make_config(env, "straight", tmp_path, lstm, workers)
    assert train(straight) == 0

    halves = TinyCheckpointManager("halves", tmp_path)
    trainer = Trainer(make_config(env, "halves", tmp_path, lstm, workers))
    run_epochs(trainer, N)
    halves.save_checkpoint(trainer.agent, trainer.epoch, trainer.state_dict())
    trainer.close()
    command = [sys.executable, "-m", "metta.tools.main", "train", "run=halves", f"train_dir={tmp_path}", "display=none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")

    whole = TinyCheckpointManager("straight", tmp_path)
    assert differences(final_state(whole), final_state(halves)) == []
    tail = {name: points[-N:] for name, points in curves(tmp_path / "straight").items() if name.startswith("losses")}
    resumed = {name: points for name, points in curves(tmp_path / "halves").items() if name.startswith("losses")}
    assert differences(tail, resumed) == []

    with PolicyEvaluator(tmp_path) as evaluator:
        for run in ("straight", "halves"):
            evaluator.evaluate(run, 2 * N, episodes=4, seed=9)
    db = EvalDB(tmp_path / "eval.db")
    label = env + ("" if env.endswith("-v1") else "[max_steps=40]")
    assert len(db.episodes("straight", 2 * N, label)) == 4
    assert db.episodes("straight", 2 * N, label) == db.episodes("halves", 2 * N, label)


class DrawingAgent(PolicyAgent):
    """Draws from every generator by itself, as an agent of one's own may."""

    def forward(self, observations, state=(), starts=None):
        import random

        import numpy as np

        params, values, state = super().forward(observations, state, starts)
        params = params + random.random() * 0.1 + float(np.random.rand()) * 0.1
        return functional.dropout(params, 0.1), values, state


@pytest.mark.parametrize(
    ("env", "lstm", "num_shards"), [("CartPole-v1", True, 1), ("CartPole-v1", True, 3), ("arena", False, 2)]
)
def test_workers_change_nothing(env, lstm, num_shards, tmp_path):
    """Results that depend on how many processes share the work cannot be reproduced elsewhere."""
    states = []
    for workers in (0, 1, 5):
        config = make_config(env, "run", tmp_path, lstm, workers, num_shards)
        torch.manual_seed(0)
        trainer = Trainer(config, DrawingAgent(spec_of(config.env_name), hidden_size=16, lstm=lstm))
        logged = run_epochs(trainer, 5)
        state = trainer.state_dict()
        del state["config"]
        states.append((trainer.agent, state, logged))
        trainer.close()
    assert differences(states[0], states[1]) == []
    assert differences(states[0], states[2]) == []


def resumed_bits(manager, config, epochs=N):
    trainer = load_trainer(manager, config, frozenset())
    assert trainer is not None
    logged = run_epochs(trainer, epochs)
    bits = trainer.agent, trainer.state_dict(), logged
    trainer.close()
    return bits


def save_with_drawing_agent(tmp_path, run):
    """A run stopped after N epochs whose every item of state matters."""
    config = make_config("CartPole-v1", run, tmp_path, lstm=True)
    trainer = Trainer(config, DrawingAgent(spec_of(config.env_name), hidden_size=16, lstm=True))
    run_epochs(trainer, N)
    return trainer, config


def without(state, path, fresh):
    """The trainer state with one item as it is in a fresh trainer: as if it had not been saved."""
    *parents, last = path.split("/")
    for name in parents:
        key = int(name) if name.isdecimal() else name
        state, fresh = state[key], fresh[key]
    assert last in state
    state[last] = fresh[last]


STATE = [  # the epoch is in the files' names
    "agent_steps",
    "optimizer/state",
    "reward_scaler/discounted",
    "reward_scaler/m2",
    "reward_scaler/mean",
]
STATE += [
    "reward_scaler/count",
    "shards/0/episodes",
    "shards/0/recurrent",
]
STATE += ["shards/0/episodes/actions", "shards/0/episodes/seeds", "shards/0/episodes/episode_index"]


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("item", [None, *STATE, "normalizer"])
def test_every_item_of_state_is_needed(item, tmp_path, capsys):
    """An equality test that cannot fail, and state that is saved though nothing needs it."""
    trainer, config = save_with_drawing_agent(tmp_path, "run")
    manager = TinyCheckpointManager("run", tmp_path)
    agent, state = trainer.agent, copy.deepcopy(trainer.state_dict())
    manager.save_checkpoint(agent, trainer.epoch, state)
    expected = resumed_bits(manager, config)
    fresh = Trainer(config)
    if item == "normalizer":
        agent.encoder.normalizer.load_state_dict(fresh.agent.encoder.normalizer.state_dict())
    elif item is not None:
        without(state, item, fresh.state_dict())
    fresh.close()
    trainer.close()
    changed = TinyCheckpointManager("changed", tmp_path)
    changed.save_checkpoint(agent, max(trainer.epoch, 1), state)
    seed_everything(99)  # what a new process would have drawn so far is another number
    found = differences(expected, resumed_bits(changed, config))
    assert (found == []) == (item is None), found
