"""The numbers of three short training runs, as they were when every part of them had been checked against another's.

They hold on any machine. What a run draws is drawn by algorithms that are the same everywhere (numpy's for the actions,
torch's Mersenne twister for the weights and the minibatches), so two machines differ only in the order in which float32
sums are added up.
"""

from typing import Any

import numpy as np
import pytest

from metta.rl.train_config import TrainConfig
from metta.rl.trainer import Trainer
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
        [-0.00967, 0.54182, 1.08425, 0.01513, -0.90116, 2.93978],
        [-0.01247, 0.48703, 1.06766, 0.00531, 0.08838, 2.35566],
        [-0.01330, 0.34819, 1.03093, 0.00672, 0.20059, 2.59002],
        [-0.02931, 0.51986, 0.98747, 0.00789, 0.23754, 3.31673],
    ],
    "lstm": [
        [-0.01182, 0.34954, 2.81766, 0.00325, -0.05285, -0.20982],
        [-0.00836, 0.59533, 2.85279, 0.00624, 0.24992, -0.45110],
        [-0.02141, 0.38630, 2.85880, 0.00436, 0.12618, -0.39511],
        [-0.02187, 0.33947, 2.83677, 0.00712, 0.31034, 0.37073],
    ],
    "tokens": [
        [-0.01328, 0.13302, 1.60168, 0.00757, -0.02581, 0.01250],
        [-0.01698, 0.04138, 1.57054, 0.01047, 0.05596, 0.00625],
        [-0.01431, 0.21331, 1.50938, 0.00476, 0.09442, 0.02500],
        [-0.00997, 0.07082, 1.46624, 0.00090, 0.61822, 0.01250],
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
