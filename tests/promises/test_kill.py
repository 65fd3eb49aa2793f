"""A training process killed again and again, restarted by the same command, ends as one that was left alone."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from metta.eval.eval_db import EvalDB
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from tests.helpers.exact import differences
from tests.helpers.kill_victim import PHASES

ROOT = Path(__file__).parents[2]
LIFE_S = 0.6  # a victim trains for a random part of this before it is killed
EPOCH_S = 0.01  # or of its share of all epochs at this pace, lest a fast machine ends the run before the last kill

STATEFUL = "agent=tests.helpers.stateful_agents:BatchNormAgent"  # of two environments in each shard
WATCHED = "keep_last=1"  # with an evaluation beside it, which reads what retention deletes
FRAIL = "env=tests.helpers.small_envs:test/Frail"  # one in ten of its episodes raises
FAILED = "Frail fell apart"


def start(tmp_path: Path, run: str, epochs: int, shards: int, extra: str) -> subprocess.Popen[str]:
    """Start or resume the run. Only run=killed has an environment that fails."""
    (tmp_path / f"{run}.phase").write_bytes(bytes(2))
    given = f"env=CartPole-v1 lstm=true num_envs=4 horizon=8 minibatch_size=32 update_epochs=1 hidden_size=8 \
        num_shards={shards} num_workers={shards - 1} checkpoint_interval=1 keep_last=3 display=none \
        total_timesteps={32 * epochs} train_dir={tmp_path} run={run} {extra}"
    settings = {key: f"{key}={value}" for key, value in (pair.split("=", 1) for pair in given.split())}
    victim = ROOT / "tests/helpers/kill_victim.py"
    return subprocess.Popen(
        [sys.executable, str(victim), str(tmp_path / f"{run}.phase"), *settings.values()],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1", "FRAIL": str(int(run == "killed"))},
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def watched(tmp_path: Path, run: str) -> Iterator[None]:
    """Evaluate each new checkpoint of the run beside it, all the time."""
    command = f"-m metta.tools.main sim run={run} watch=true episodes=2 train_dir={tmp_path}"
    with subprocess.Popen(
        [sys.executable, *command.split()],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.communicate()[1]
    assert EvalDB(tmp_path / "eval.db").get_scores(run) != {}


def wait_for_training(process: subprocess.Popen[str], phase_file: Path) -> None:
    while phase_file.read_bytes()[0] == 0 and process.poll() is None:
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("kills", "epochs", "shards", "extra"),
    [
        pytest.param(3, 120, 1, "", id="3 kills"),
        pytest.param(2, 60, 2, STATEFUL, id="2 kills, 2 processes, stateful agent"),
        pytest.param(2, 40, 1, FRAIL, id="2 kills, an environment that fails"),
        pytest.param(50, 2500, 1, "", id="50 kills", marks=pytest.mark.slow),
        pytest.param(20, 1000, 2, "", id="20 kills, 2 processes", marks=pytest.mark.slow),
        pytest.param(50, 2500, 2, STATEFUL, id="50 kills, 2 processes, stateful agent", marks=pytest.mark.slow),
        pytest.param(40, 2000, 1, WATCHED, id="40 kills, an evaluation beside it", marks=pytest.mark.slow),
        pytest.param(40, 300, 2, FRAIL, id="40 kills, an environment that fails", marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_ends_with_the_same_bits(kills, epochs, shards, extra, tmp_path, capsys):
    """Whatever is half done when the power goes: the next start must find its way back to the same run."""
    died_in: Counter[str] = Counter()
    with watched(tmp_path, "killed") if extra == WATCHED else nullcontext():
        kill(tmp_path, kills, epochs, shards, extra, died_in)
    finish(start(tmp_path, "alone", epochs, shards, extra))

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


def kill(tmp_path: Path, kills: int, epochs: int, shards: int, extra: str, died_in: Counter[str]) -> None:
    """Kill run=killed so many times, and let it end; where its environment failed it is started again."""
    rng, life_s = random.Random(kills), min(LIFE_S, EPOCH_S * epochs / kills)
    phase_file = tmp_path / "killed.phase"
    while died_in.total() - died_in[FAILED] < kills:
        process = start(tmp_path, "killed", epochs, shards, extra)
        wait_for_training(process, phase_file)
        time.sleep(rng.uniform(0, life_s))
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate()
        if FAILED in stderr:
            died_in[FAILED] += 1
            continue
        assert process.returncode == -signal.SIGKILL, f"it ended before it was killed: {stderr}"
        loop, saving = phase_file.read_bytes()
        died_in[PHASES[loop] + (" with a save under way" if saving else "")] += 1
    while not finish(start(tmp_path, "killed", epochs, shards, extra)):
        died_in[FAILED] += 1


def finish(process: subprocess.Popen[str]) -> bool:
    """Wait for the end; whether it was the run's, and not that of an environment."""
    _, stderr = process.communicate()
    if FAILED in stderr:
        assert process.returncode == 1 and "Traceback" not in stderr, stderr
        return False
    assert (process.returncode, stderr) == (0, ""), stderr
    return True
