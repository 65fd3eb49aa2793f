"""Environments are closed when the work is done, in whichever process they are."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import gymnasium
import numpy as np
import pytest

from metta.envs.env_spec import EnvName
from metta.envs.make_env import spec_of
from metta.envs.vec_env import EpisodeSeeds, VecEnv
from metta.errors import say_once
from metta.rl.one_run import Trainer
from metta.rl.train_config import TrainConfig
from metta.sim.simulation import SimulationPool
from tests.helpers.commands import ENVIRONMENT
from tests.helpers.small_envs import ONE_STEP

NAME = "test/Note-v0"


class NoteEnv(gymnasium.Env):
    """Writes a note when it is closed, as one with a simulator in a process of its own would end that."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(1, np.float32), 0.0, True, False, {}

    def close(self) -> None:
        (self.folder / f"{len(list(self.folder.iterdir()))}-{id(self)}").touch()


@pytest.fixture
def env(tmp_path: Path) -> Any:
    gymnasium.register(NAME, entry_point=NoteEnv)  # type: ignore[arg-type]
    yield EnvName(NAME, {"folder": str(tmp_path)})
    del gymnasium.registry[NAME]


def notes(env: EnvName) -> int:
    """How many were closed since this was asked last."""
    found = list(Path(env.settings["folder"]).iterdir())
    for path in found:
        path.unlink()
    return len(found)


@pytest.mark.parametrize("error", [RuntimeError("no window"), SystemExit(0)])
def test_a_close_that_fails_is_said_once(
    env: EnvName, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    """A traceback before training begins, or a command that ends with 0 and no word, for what no longer matters."""
    say_once.cache_clear()
    monkeypatch.setattr(NoteEnv, "close", MagicMock(side_effect=error))
    envs = VecEnv(spec_of(env), 3, EpisodeSeeds(0))
    envs.close()
    said = f"metta: env={NAME}: close failed: {type(error).__name__}: {error}"
    assert NoteEnv.close.call_count == 4  # type: ignore[attr-defined]
    assert re.fullmatch(rf"{said} \(.*\)\n", capsys.readouterr().err)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_vec_env_closes_all_of_them(env: EnvName, num_workers: int) -> None:
    """A simulator that an environment started and that outlives the run, where a worker process held it."""
    spec = spec_of(env)
    assert notes(env) == 1
    envs = VecEnv(spec, 3, EpisodeSeeds(0), num_workers)
    envs.reset()
    envs.step(np.zeros(3, int))
    assert notes(env) == 0
    envs.close()
    assert notes(env) == 3


def test_a_trainer_closes_those_of_its_replicas(env: EnvName) -> None:
    """The same in processes that have an agent and workers of their own."""
    values: dict[str, Any] = {"num_envs": 4, "num_shards": 2, "num_workers": 3, "horizon": 4, "device": "cpu"}
    trainer = Trainer(TrainConfig(run="r", env=env.name, env_settings=env.settings, **values))
    trainer.run_epoch()
    assert notes(env) == 1
    trainer.close()
    assert notes(env) == 4


def test_an_evaluation_closes_those_of_its_helpers(env: EnvName) -> None:
    """Helpers killed at the end of every evaluation, with the environments open."""
    simulations = SimulationPool(spec_of(env), 2, 1, "cpu")
    assert len(simulations.begin(None, range(8))()) == 8
    assert notes(env) == 1
    simulations.close()
    assert notes(env) == 4


HELPED = (
    ONE_STEP
    + """
    def __init__(self):
        self.helper = begin()
        with open("helpers", "a") as file:
            file.write(f"{self.helper.pid}\\n")

    def close(self):
        self.helper.terminate()
        end(self.helper)
"""
)
HELPERS = {
    "program": """
import subprocess, sys

def begin():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

def end(helper):
    helper.wait()
""",
    "fork": """
import multiprocessing, time

def begin():
    helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
    helper.start()
    return helper

def end(helper):
    helper.join()
""",
}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", HELPERS)
def test_helpers_of_an_environment_s_end_when_they_are_told(tmp_path: Path, kind: str, num_workers: int) -> None:
    """A helper that takes a SIGTERM for the user's, or ignores it as its parent does: training waits for it forever."""
    (tmp_path / "helped.py").write_text(HELPERS[kind] + HELPED)
    small = ["num_envs=2", "horizon=8", "minibatch_size=16", "total_timesteps=32", "hidden_size=4", "display=none"]
    command = [sys.executable, "-m", "metta.tools.main", "train", "run=r", "env=helped.py:Env", *small]
    command.append(f"num_workers={num_workers}")
    result = subprocess.run(command, check=False, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, b"")
    pids = (tmp_path / "helpers").read_text().split()
    assert len(pids) == 3 and not [pid for pid in pids if is_alive(pid)]


def is_alive(pid: str) -> bool:
    stat = Path("/proc", pid, "stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
