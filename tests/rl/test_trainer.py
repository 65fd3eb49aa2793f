"""Training as a user runs it: a process that is started, stopped, extended, and given an agent of one's own."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from metta.agent.policy_agent import PolicyAgent
from metta.envs.make_env import spec_of
from metta.errors import UserError
from metta.rl.display.curves import CurveWriter
from metta.rl.one_run import Trainer, load_trainer
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.rl.trainer import train
from metta.run_folder import RunFolder
from tests.helpers.commands import metta_in, result_of
from tests.helpers.exact import curves, run_epochs

ROOT = Path(__file__).parents[2]
SMALL = ["env=CartPole-v1", "num_envs=2", "horizon=32", "minibatch_size=64", "update_epochs=1", "hidden_size=8"]


def command(tmp_path, *arguments):
    return [sys.executable, "-m", "metta.tools.main", "train", f"train_dir={tmp_path}", *arguments]


def run(tmp_path, *arguments):
    return result_of(ROOT, command(tmp_path, *arguments))


def wait_for(condition, process):
    """Until the process has done something; it must not end before."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_finishes_the_epoch_saves_and_leaves(number, status, tmp_path):
    """Ctrl-C that loses the epochs since the last checkpoint, or that a queue system takes for success."""
    arguments = ("run=r", *SMALL, "total_timesteps=100_000_000", "checkpoint_interval=7")
    manager = TinyCheckpointManager("r", tmp_path)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which a process inherits: the tests may run under nohup
    process = subprocess.Popen(command(tmp_path, *arguments), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGHUP, before)
    wait_for(lambda: 7 in manager.list_epochs(), process)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == status, stderr
    assert "stopped and saved" in stderr and "Traceback" not in stderr
    loaded = manager.load_latest()
    assert loaded is not None
    epoch, _, state = loaded
    assert epoch == state["epoch"] >= 7 and f"goes on: epoch {epoch}, " in stderr


def test_what_is_ignored_stays_so(tmp_path):
    """`nohup metta train run=r &` that ends with the terminal all the same."""
    arguments = ("run=r", *SMALL, "total_timesteps=100_000_000", "checkpoint_interval=7")
    manager = TinyCheckpointManager("r", tmp_path)
    process = subprocess.Popen(
        ["nohup", *command(tmp_path, *arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(manager.exists, process)
    process.send_signal(signal.SIGHUP)
    after = max(manager.list_epochs()) + 14
    wait_for(lambda: max(manager.list_epochs()) >= after, process)
    process.send_signal(signal.SIGTERM)
    assert "stopped and saved" in process.communicate()[1] and process.returncode == 143


def test_a_second_signal_leaves_at_once(tmp_path):
    """A process that cannot be stopped while an epoch takes minutes; what was committed stays."""
    arguments = ("run=r", "env=CartPole-v1", "num_envs=2", "horizon=200_000", "total_timesteps=100_000_000")
    manager = TinyCheckpointManager("r", tmp_path)
    process = subprocess.Popen(command(tmp_path, *arguments), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_for(manager.exists, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "once more" in process.stderr.readline() + process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert "left at once; epoch 0 is the newest saved" in process.communicate()[1]
    assert process.returncode == 130
    assert manager.list_epochs() == [0]
    assert manager.load_latest() is not None


def test_curves_of_a_killed_run_have_neither_gap_nor_overlap(tmp_path):
    """Points logged after the last checkpoint would stand twice, with other values, once the run is resumed."""
    config = TrainConfig(
        run="r",
        env="CartPole-v1",
        num_envs=2,
        horizon=32,
        minibatch_size=64,
        update_epochs=1,
        hidden_size=8,
        total_timesteps=64 * 9,
        train_dir=str(tmp_path),
        display="none",
    )
    manager = TinyCheckpointManager("r", tmp_path)
    trainer, writer = Trainer(config), CurveWriter(RunFolder(config.train_dir, config.run), 0)
    for _ in range(6):
        writer.add(trainer.run_epoch(), trainer.agent_steps)
        if trainer.epoch == 4:
            manager.save_checkpoint(trainer.agent, trainer.epoch, trainer.state_dict())
    trainer.close()  # as if it was killed here, two epochs after its checkpoint
    assert train(config) == 0
    steps = [step for step, _ in curves(manager.folder.parent)["losses/entropy"]]
    assert steps == [64 * epoch for epoch in range(1, 10)]


def test_a_complete_run_says_so_and_can_be_extended(tmp_path):
    """Repeating a finished run, or extending it into a learning rate of zero.

    The rate is always learning_rate * (1 - steps / total_timesteps) with the total of today: it rises again when the
    total is raised.
    """
    train = ("train", "run=r", "train_dir=.")
    arguments = (*SMALL, "total_timesteps=640", "learning_rate=1e-3")
    metta_in(tmp_path, *train, *arguments)
    assert "is complete: epoch 10" in metta_in(tmp_path, *train, *arguments)[1]
    assert TinyCheckpointManager("r", tmp_path).list_epochs() == [0, 10]

    metta_in(tmp_path, *train, "total_timesteps=1280")
    rates = dict(curves(tmp_path / "r")["charts/learning_rate"])
    assert rates[640] == pytest.approx(1e-3 * (1 - 576 / 640))
    assert rates[704] == pytest.approx(1e-3 * (1 - 640 / 1280))
    assert list(rates) == [64 * epoch for epoch in range(1, 21)]


AGENT = """
import torch
from metta.agent.policy_agent import PolicyAgent

class Wide(torch.nn.Module):
    output_size = 12
    def __init__(self, size):
        super().__init__()
        self.layer = torch.nn.Linear(size, self.output_size)
    def forward(self, observations):
        return torch.relu(self.layer(observations.float()))

class MyAgent(PolicyAgent):
    def build_encoder(self, env, hidden_size):
        return Wide(env.observation_shape[0])
"""


def test_an_agent_of_ones_own_trains_resumes_and_loads_elsewhere(tmp_path):
    """A checkpoint that needs the script it came from is no file that acts alone."""
    script = tmp_path / "mine.py"
    script.write_text(AGENT)
    arguments = ("run=r", *SMALL, f"agent={script}:MyAgent")
    assert run(tmp_path, *arguments, "total_timesteps=640").returncode == 0
    script.unlink()
    resumed = run(tmp_path, "run=r", "total_timesteps=1280")
    assert resumed.returncode == 0, resumed.stderr
    code = (
        "import sys, numpy, torch; a = torch.load(sys.argv[1], weights_only=False); "
        "print(type(a).__name__, a.act(numpy.zeros((2, 4), 'float32'))[0].shape)"
    )
    file = tmp_path / "r" / "checkpoints" / "agent_epoch_20.pt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    loaded = subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert loaded.stdout == "MyAgent (2,)\n", loaded.stderr


class Drifting(gymnasium.Env):
    """An environment whose observations come from nowhere that a seed reaches."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def _observe(self):
        return np.frombuffer(os.urandom(12), np.uint8)[:3].astype(np.float32) / 255

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        return self._observe(), 1.0, False, False, {}


def test_an_environment_that_does_not_reproduce_is_named(tmp_path, capsys):
    """Pretending an exact resume that cannot be; training goes on all the same."""
    gymnasium.register("metta/Drifting-v0", lambda **settings: Drifting(), max_episode_steps=50)
    try:
        config = TrainConfig(
            run="r",
            env="metta/Drifting-v0",
            num_envs=2,
            horizon=32,
            minibatch_size=64,
            hidden_size=8,
            train_dir=str(tmp_path),
        )
        trainer = Trainer(config)
        run_epochs(trainer, 1)
        manager = TinyCheckpointManager("r", tmp_path)
        manager.save_checkpoint(trainer.agent, 1, trainer.state_dict())
        trainer.close()
        resumed = load_trainer(manager, config, frozenset())
        assert resumed is not None
        assert "not exact: metta/Drifting-v0 did not reproduce its episodes (2 of 2)" in capsys.readouterr().err
        assert np.isfinite(run_epochs(resumed, 1)[0]["losses/value_loss"])
        resumed.close()
    finally:
        del gymnasium.registry["metta/Drifting-v0"]


def test_an_agent_of_another_environment_is_refused():
    """An environment that another version of its package gives other spaces: an error about arrays, or none at all."""
    config = TrainConfig(run="r", env="CartPole-v1", device="cpu")
    spec = replace(spec_of(config.env_name), num_actions=3)
    said = "an agent trained on CartPole-v1 cannot act in CartPole-v1: their num actions differ (num actions 3, not 2)"
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        Trainer(config, PolicyAgent(spec))


def test_a_resume_elsewhere_says_that_it_is_not_exact(tmp_path, capsys):
    """Another metta, torch, processor or number of threads changes the bits: to pretend otherwise would be a lie."""
    config = TrainConfig(run="r", env="CartPole-v1", num_envs=2, horizon=32, hidden_size=8, train_dir=str(tmp_path))
    trainer = Trainer(config)
    state = trainer.state_dict()
    mine = dict(state["software"])
    state["software"] = {name: "another" for name in mine}
    trainer.load_state_dict(state)
    trainer.close()
    assert mine["torch"] == torch.__version__
    named = ", ".join(f"{name} another -> {value}" for name, value in mine.items())
    assert f"not exact: {named}\n" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_stops_training_in_one_line_and_the_same_command_resumes(tmp_path):
    """A run that goes on unsaved, or a half-written checkpoint taken for one, when the disk is full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        stopped = run(disk, "run=r", *SMALL, "total_timesteps=1280", "checkpoint_interval=1", "display=plain")
        assert stopped.returncode == 1
        last = TinyCheckpointManager("r", disk).list_epochs()[-1]
        *before, line = stopped.stderr.splitlines()
        assert "No space left on device" in line and all(said.startswith("run=r ") for said in before), stopped.stderr
        assert f"epochs are unsaved: with room made, the same command goes on from epoch {last}" in stopped.stderr
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        resumed = run(disk, "run=r", "display=none")
        assert (resumed.returncode, resumed.stderr) == (0, "")
        assert TinyCheckpointManager("r", disk).list_epochs() == list(range(21))
    finally:
        subprocess.run(["umount", disk], check=True)
