"""Every numeric key of every command with extreme values: it works, or it is one line and leaves no file."""

from pathlib import Path
from typing import Any

import pytest

from metta.errors import MettaError
from metta.keys import keys, kinds
from metta.rl.one_run import Trainer
from metta.rl.train_config import TrainConfig
from metta.tools.main import main
from tests.tools.test_options import COMMANDS

NUMERIC = [(c, key) for c, config in COMMANDS.items() for key in keys(config) if kinds(config)[key][0] in (int, float)]
REFUSED = ("1" + "0" * 310, "-1" + "0" * 310, "9" * 5000, "1e400", "-1e400", "nan", "inf", "-inf", "-1", "-1e-300")
REFUSED_INTEGERS = ("1000000000000000001", str(2**70), "1e3", "0x10", "1.0", "²", "1e300")
NEEDED = {
    "train": ["run=new", "env=CartPole-v1"],
    "launch": ["run=new", "env=CartPole-v1"],
    "sim": ["run=new"],
    "play": ["run=new"],
    "replay": ["run=new"],
}


@pytest.mark.parametrize(("command", "key"), NUMERIC)
def test_what_no_run_can_have_is_refused(
    command: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OverflowError, a traceback of torch's, or an empty run folder, for a number with too many digits."""
    monkeypatch.chdir(tmp_path)
    integer = kinds(COMMANDS[command])[key][0] is int
    for value in (*REFUSED, *(REFUSED_INTEGERS if integer else ("1e300",))):
        assert main([command, *NEEDED.get(command, []), f"{key}={value}"]) == 2, value
        line = capsys.readouterr().err
        assert line.startswith(f"metta {command}: {key}=") and line.count("\n") == 1 and len(line) < 160, value
    assert list(tmp_path.iterdir()) == []


SMALL: dict[str, Any] = {
    "run": "r",
    "num_envs": 2,
    "horizon": 32,
    "minibatch_size": 64,
    "update_epochs": 1,
    "hidden_size": 8,
    "total_timesteps": 64,
    "device": "cpu",
}
TINY, LARGE = 5e-324, 1e30
EDGES: dict[str, tuple[float | int, ...]] = {
    "seed": (0, 2**32 - 1),
    "total_timesteps": (1, 10**18),
    "num_envs": (1, 300),
    "num_workers": (0, 1000),
    "horizon": (1, 10**9),
    "minibatch_size": (1, 10**18),
    "update_epochs": (1, 100),
    "learning_rate": (TINY, 1000.0),
    "gamma": (0, TINY, 1),
    "gae_lambda": (0, TINY, 1),
    "clip_coef": (TINY, LARGE),
    "vf_coef": (0, TINY, LARGE),
    "vf_clip": (TINY, LARGE),
    "ent_coef": (0, TINY, LARGE),
    "max_grad_norm": (TINY, LARGE),
    "target_kl": (TINY, LARGE),
    "hidden_size": (1, 600),
    "num_shards": (2, 2**16),
    "checkpoint_interval": (1, 10**18),
    "keep_last": (1, 10**18),
    "evaluate": (1, 10**6),
}


def test_no_key_is_forgotten() -> None:
    """A numeric key that came later, without a bound."""
    assert EDGES.keys() == {key for command, key in NUMERIC if command == "train"}


@pytest.mark.slow
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_what_a_run_can_have_trains_for_an_epoch(env: str) -> None:
    """A bound beyond what torch, numpy or a worker process can take: a traceback in the middle of the first epoch."""
    for key, values in EDGES.items():
        for value in values:
            try:
                trainer = Trainer(TrainConfig(**{**SMALL, "env": env, key: value}))
            except MettaError:
                assert (key, value) in (("horizon", 10**9), ("num_shards", 2**16))
                continue
            try:
                trainer.run_epoch()
            except MettaError as error:  # a loss or a number that is not finite
                assert "finite" in str(error)
            finally:
                trainer.close()
