"""The line that says that a run does not learn: of sick runs, and of no healthy one."""

from typing import Any

import numpy as np
import pytest

from metta.rl.display.health import Learned, verdict
from metta.rl.display.progress import Progress
from metta.rl.one_run import Trainer
from metta.rl.train_config import TrainConfig
from tests.helpers.small_envs import Arms, Cue, Fork, Lengths, env_id

NOISE = np.random.RandomState(0).standard_normal(60)


def epochs(returns: Any, entropy: float = 0.6, kl: float = 0.01, explained: float = 0.5) -> list[Learned]:
    """An entropy of 0.69 at first, and the given ones from then on."""
    rest = [Learned(float(one), entropy, kl, explained) for one in returns]
    return [rest[0]._replace(entropy=0.69), *rest[1:]]


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (epochs(NOISE), "not left the untrained agent's"),
        (epochs(np.zeros(30)), "not left the untrained agent's, 0:"),
        (epochs(np.zeros(30), explained=float("nan")), "no reward differs"),
        (epochs(NOISE, kl=0.5), "the policy jumps (approx_kl up to 0.5)"),
        (epochs(NOISE, entropy=0.001), "chooses one action (entropy 0.001, 0.69 at first)"),
        (epochs(NOISE, explained=-0.2), "explains nothing (explained variance -0.20)"),
        (epochs(np.concatenate((np.linspace(0, 100, 30), np.full(30, 3.0)))), "has fallen back from 9"),
        (epochs(-np.arange(40.0)), "not left the untrained agent's"),
    ],
)
def test_what_is_said_of_sick_runs(history: list[Learned], said: str) -> None:
    """Prevents a user from waiting for a run that shows no learning, not knowing what to change."""
    found = verdict(history)
    assert found is not None and said in found and "=" in found


@pytest.mark.parametrize(
    "history",
    [
        epochs(NOISE + np.linspace(0, 20, 60)),
        epochs(np.concatenate(([0.0, 0.5], np.ones(40))), entropy=0.0, explained=float("nan")),
        epochs(np.full(29, 0.0)),
        [],
        epochs(np.linspace(20, 500, 60) + 20 * NOISE, kl=0.2, explained=0.0),
    ],
    ids=["noisy", "learned at once", "too short to say", "no episode", "odd on the way"],
)
def test_nothing_is_said_of_healthy_runs(history: list[Learned]) -> None:
    """Prevents a line that cries wolf: a solved task has no entropy, and a perfect return no variance to explain."""
    assert verdict(history) is None


CARTPOLE: dict[str, Any] = {"env": "CartPole-v1", "total_timesteps": 30_000, "horizon": 64}
ARMS: dict[str, Any] = {"env": env_id(Arms), "total_timesteps": 20_000, "horizon": 32, "learning_rate": 3e-3}
CUE: dict[str, Any] = {"env": env_id(Cue), "total_timesteps": 20_000, "horizon": 32, "lstm": True}
FORK: dict[str, Any] = {"env": env_id(Fork), "total_timesteps": 20_000, "horizon": 32, "gamma": 0.9}
LENGTHS: dict[str, Any] = {"env": env_id(Lengths), "total_timesteps": 10_000, "horizon": 32, "learning_rate": 1e-9}
SICK = {
    "a step of nothing": CARTPOLE | {"learning_rate": 1e-9},
    "a leap": CARTPOLE | {"learning_rate": 1.0},
    "no future": CARTPOLE | {"gamma": 0.0},
    "chance alone": CARTPOLE | {"ent_coef": 100.0},
    "noise": LENGTHS,
}
HEALTHY = {"cartpole": CARTPOLE, "arms": ARMS, "memory": CUE, "fork": FORK, "other cartpole": CARTPOLE | {"seed": 5}}


@pytest.mark.slow
def test_it_is_right_of_nine_runs_in_ten() -> None:
    """Prevents thresholds that fit no run that was really trained."""
    right = {}
    for name, settings in {**SICK, **HEALTHY}.items():
        trainer = Trainer(TrainConfig(run="r", device="cpu", num_workers=0, **settings))
        progress = Progress(trainer.config)
        while not trainer.complete:
            scalars = trainer.run_epoch()
            progress.update(trainer.epoch, trainer.agent_steps, scalars, {})
        trainer.close()
        print(name, progress.health, progress.returns[:2], progress.returns[-3:])
        right[name] = (progress.health is not None) == (name in SICK)
    assert sum(right.values()) >= 9, right
