"""Learning happens: environments that are solved in seconds, each of them out of reach with the faults it is there for.

The seed is fixed. A sound run reaches the best that there is, and thresholds lie half-way to what the faults leave, so
that other rounding, or chance drawn in another order, passes.
"""

from typing import Any

import gymnasium
import numpy as np

from metta.rl.one_run import Trainer
from metta.rl.train_config import TrainConfig
from tests.helpers.small_envs import Arms, Cue, Door, First, Fork, env_id

SMALL: dict[str, Any] = {
    "run": "r",
    "seed": 0,
    "device": "cpu",
    "num_workers": 0,
    "hidden_size": 16,
    "learning_rate": 5e-3,
    "update_epochs": 4,
}


def return_at_the_end(kind: type[gymnasium.Env], epochs: int, num_envs: int, horizon: int, **settings: Any) -> float:
    """The mean return of the episodes in the last third of training."""
    steps = num_envs * horizon
    shape: dict[str, Any] = {"num_envs": num_envs, "horizon": horizon, "minibatch_size": max(8, steps // 2)}
    trainer = Trainer(TrainConfig(**SMALL, **shape, env=env_id(kind), total_timesteps=epochs * steps, **settings))
    returns = [trainer.run_epoch().get("charts/episodic_return", np.nan) for _ in range(epochs)]
    trainer.close()
    return float(np.nanmean(returns[-epochs // 3 :]))


def test_one_arm_of_64_is_found():
    """Epochs that draw the same noise: with eight actions in each, most arms are never tried."""
    assert return_at_the_end(Arms, epochs=60, num_envs=2, horizon=4, gamma=0.0) > 0.8


def test_a_time_out_is_worth_what_would_have_come():
    """Time-outs taken for ends, or bootstrapped from the next episode: both make the small sure reward look better."""
    best, with_the_faults = 0.5, 1.4
    assert return_at_the_end(Door, epochs=20, num_envs=8, horizon=8, gamma=0.5) < (best + with_the_faults) / 2


def test_a_rollout_s_end_is_worth_what_comes_after():
    """Last values of zero: in rollouts of a single step nothing else tells what an action leads to."""
    assert return_at_the_end(Fork, epochs=40, num_envs=16, horizon=1, gamma=0.9) > 0.8


def test_a_cue_is_remembered_for_two_steps():
    """Recurrent state that is lost from one step to the next, or on the way from the rollout to the update."""
    assert return_at_the_end(Cue, epochs=15, num_envs=16, horizon=8, lstm=True) > 0.8


def test_an_episode_begins_with_an_empty_memory():
    """Recurrent state inherited from the episode before: nothing then tells the first step from the others."""
    assert return_at_the_end(First, epochs=15, num_envs=16, horizon=8, lstm=True, gamma=0.5) > 0.9


def test_cartpole_reaches_195_within_40_000_steps():
    """Defaults that fail; a gradient with the wrong sign or that reaches no weight; a death that costs nothing."""
    trainer = Trainer(TrainConfig(run="r", env="CartPole-v1", seed=0, device="cpu", total_timesteps=40_000))
    returns = [0.0]
    while np.mean(returns[-3:]) < 195 and not trainer.complete:
        returns.append(trainer.run_epoch().get("charts/episodic_return", returns[-1]))
    trainer.close()
    assert np.mean(returns[-3:]) >= 195, returns
