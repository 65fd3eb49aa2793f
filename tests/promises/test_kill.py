"""A training process killed again and again, restarted by the same command, ends as one that was left alone."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.exact import differences
from tests.helpers.kill_victim import PHASES

ROOT = Path(__file__).parents[2]
LIFE_S = 0.6  # a victim trains for a random part of this before it is killed


STATEFUL = "agent=tests.helpers.stateful_agents:BatchNormAgent"  # of two environments in each shard


def command(tmp_path: Path, run: str, epochs: int, shards: int, agent: str) -> list[str]:
    settings = f"env=CartPole-v1 lstm=true num_envs=4 horizon=8 minibatch_size=32 update_epochs=1 hidden_size=8 \
        {agent} num_shards={shards} num_workers={shards - 1} checkpoint_interval=1 keep_last=3 display=none \
        total_timesteps={32 * epochs} train_dir={tmp_path} run={run}"
    victim = ROOT / "tests/helpers/kill_victim.py"
    return [sys.executable, str(victim), str(tmp_path / f"{run}.phase"), *settings.split()]


def start(tmp_path: Path, run: str, epochs: int, shards: int, agent: str) -> subprocess.Popen[str]:
    (tmp_path / f"{run}.phase").write_bytes(bytes(2))
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(tmp_path, run, epochs, shards, agent), env=environment, stderr=subprocess.PIPE, text=True
    )


def wait_for_training(process: subprocess.Popen[str], phase_file: Path) -> None:
    while phase_file.read_bytes()[0] == 0 and process.poll() is None:
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("kills", "epochs", "shards", "agent"),
    [
        (3, 200, 1, ""),
        (2, 100, 2, ""),
        (2, 100, 2, STATEFUL),
        pytest.param(50, 2500, 1, "", marks=pytest.mark.slow),
        pytest.param(20, 1000, 2, "", marks=pytest.mark.slow),
        pytest.param(50, 2500, 2, STATEFUL, marks=pytest.mark.slow),
    ],
    ids=[
        "3 kills",
        "2 kills, 2 processes",
        "2 kills, 2 processes, stateful agent",
        "50 kills",
        "20 kills, 2 processes",
        "50 kills, 2 processes, stateful agent",
    ],
)
def test_killed_at_random_ends_with_the_same_bits(kills, epochs, shards, agent, tmp_path, capsys):
    """Whatever is half done when the power goes: the next start must find its way back to the same run."""
    rng = random.Random(kills)
    phase_file = tmp_path / "killed.phase"
    died_in: Counter[str] = Counter()
    for _ in range(kills):
        process = start(tmp_path, "killed", epochs, shards, agent)
        wait_for_training(process, phase_file)
        time.sleep(rng.uniform(0, LIFE_S))
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"it ended before it was killed: {stderr}"
        loop, saving = phase_file.read_bytes()
        died_in[PHASES[loop] + (" with a save under way" if saving else "")] += 1
    for run in ("killed", "alone"):
        process = start(tmp_path, run, epochs, shards, agent)
        _, stderr = process.communicate()
        assert (process.returncode, stderr) == (0, ""), stderr

    ends = []
    for run in ("killed", "alone"):
        loaded = TinyCheckpointManager(run, tmp_path).load_latest()
        assert loaded is not None
        del loaded[2]["config"]
        ends.append(loaded)
    assert ends[0][0] == epochs
    assert differences(ends[0], ends[1]) == []
    with capsys.disabled():
        print(f"\n{kills} kills survived: {dict(died_in.most_common())}")
