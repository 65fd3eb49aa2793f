"""The numbers of three short training runs, as they were when every part of them had been checked against another's.

They hold on any machine. What a run draws is drawn by algorithms that are the same everywhere (numpy's for the actions,
torch's Mersenne twister for the weights and the minibatches), so two machines differ only in the order in which float32
sums are added up.
"""

from typing import Any

import numpy as np
import pytest

from metta.rl.one_run import Trainer
from metta.rl.train_config import TrainConfig
from tests.helpers.internals import use_portable_noise
from tests.helpers.small_envs import Lengths, env_id

SMALL: dict[str, Any] = {"run": "r", "seed": 2, "device": "cpu", "num_workers": 0, "hidden_size": 16}
RUNS: dict[str, dict[str, Any]] = {
    "vector": {
        "env": env_id(Lengths),
        "num_envs": 8,
        "num_shards": 2,
        "horizon": 16,
        "minibatch_size": 32,
    },
    "lstm": {
        "env": env_id(Lengths),
        "env_settings": {"continuous": True},
        "lstm": True,
        "num_envs": 8,
        "horizon": 16,
        "minibatch_size": 64,
        "gamma": 0.95,
    },
    "tokens": {
        "env": "arena",
        "env_settings": {"num_agents": 4, "max_steps": 24},
        "num_envs": 2,
        "horizon": 32,
        "minibatch_size": 64,
    },
}
LOSSES = ("policy_loss", "value_loss", "entropy", "approx_kl", "explained_variance")
# By run and epoch: the losses, and the mean return of the episodes that ended.
GOLDEN = {
    "vector": [
        [-0.00281, 0.48420, 1.08671, 0.01204, -0.90116, 2.93978],
        [-0.01972, 0.54820, 1.06086, 0.00779, 0.00913, 2.65296],
        [-0.02263, 0.40297, 0.98865, 0.01542, 0.16731, 2.75669],
        [-0.02077, 0.61440, 0.88156, 0.00938, 0.21673, 3.58503],
    ],
    "lstm": [
        [-0.01562, 0.33706, 1.81743, 0.00688, -0.05697, -0.07833],
        [-0.00806, 0.53581, 1.85235, 0.01828, 0.26656, -0.50519],
        [-0.01912, 0.34248, 1.85446, 0.00519, 0.16871, -0.23353],
        [-0.02129, 0.31872, 1.82988, 0.00787, 0.33368, 0.53786],
    ],
    "tokens": [
        [-0.01000, 0.14931, 1.60337, 0.00646, -0.02581, 0.01250],
        [-0.00737, 0.00227, 1.59890, 0.00088, 0.28464, 0.00625],
        [-0.00740, 0.45258, 1.58580, 0.00124, 0.02064, 0.01563],
        [-0.00681, 0.05493, 1.54433, 0.00152, 0.37187, 0.00625],
    ],
}
# Measured: without the processor's vector units, with MKL's oldest instructions, with two threads, or from weights that
# are off by 1e-6 of themselves, no number moves by more than 2e-6. Each of twelve faults in the maths (a bootstrap, a
# lambda, a learning rate, a shuffle forgotten, ...) moves one by 5e-2 or more.
TOLERANCE = 1e-4


def numbers(name):
    """A row for each of four epochs."""
    settings = {**SMALL, "update_epochs": 2, "learning_rate": 0.02, "total_timesteps": 1000, **RUNS[name]}
    trainer = Trainer(TrainConfig(**settings))
    table = []
    for _ in range(4):
        scalars = trainer.run_epoch()
        losses = [scalars[f"losses/{name}"] for name in LOSSES]
        table.append([*losses, scalars["charts/episodic_return"]])
    trainer.close()
    return np.array(table)


@pytest.mark.parametrize("name", RUNS)
def test_a_short_run_has_the_numbers_it_had(name, monkeypatch):
    """A change to what is learned that nobody meant, or that nobody says: whoever means it writes the new numbers."""
    use_portable_noise(monkeypatch)
    assert numbers(name) == pytest.approx(np.array(GOLDEN[name]), abs=TOLERANCE), repr(numbers(name))
