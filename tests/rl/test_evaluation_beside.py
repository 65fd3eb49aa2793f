"""evaluate=N: each checkpoint scored by a process beside training, which it costs nothing but time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metta.eval.eval_db import open_scores
from metta.rl.one_run import Trainer
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.rl.trainer import train
from metta.tools.cli.table import score_text
from tests.helpers.commands import ENVIRONMENT
from tests.helpers.exact import differences
from tests.rl.test_on_epoch import SMALL, STEPS, config, final


def evaluators(folder: Path) -> list[int]:
    """The processes that evaluate runs of the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"sim" in words and f"train_dir={folder}".encode() in words:
            found.append(int(process.name))
    return found


def test_every_checkpoint_has_a_score(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Scores that need a second command; bits that depend on who watches; a process that is left behind."""
    seen = []

    def note(trainer: object, scalars: object) -> None:
        seen.append(len(evaluators(tmp_path)))

    assert train(config(tmp_path, "alone", epochs=5)) == 0
    capfd.readouterr()
    assert train(config(tmp_path, epochs=5, checkpoint_interval=2, evaluate=3), on_epoch=note) == 0
    out, err = capfd.readouterr()
    score = open_scores(tmp_path).get_scores("r", epoch=5)["CartPole-v1"]
    assert out == f"run=r epoch=5 CartPole-v1 {score.mean:.2f} [{score.low:.2f}, {score.high:.2f}]\n"
    assert err in ("", "run=r waits for the score of epoch 5; Ctrl-C leaves without it\n")
    scored = [epoch for epoch in range(6) if open_scores(tmp_path).get_scores("r", epoch=epoch)]
    assert scored == [0, 2, 4, 5] and score.episodes == 3
    assert seen == [1] * 5 and evaluators(tmp_path) == []
    assert differences(final(tmp_path, "alone"), final(tmp_path, "r")) == []
    resumed = TrainConfig(run="r", train_dir=str(tmp_path), total_timesteps=STEPS * 6)
    for _ in range(2):  # it goes on to be evaluated, and says the last score again where there is nothing to train
        assert train(resumed) == 0
        assert capfd.readouterr().out.startswith("run=r epoch=6 CartPole-v1 ")


@pytest.mark.filterwarnings("ignore:.*trying the checkpoint before it")
def test_a_checkpoint_saved_again_is_scored_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A damaged newest checkpoint that was saved anew never had a score, and training ended with "-" for it."""

    def wait(trainer: Trainer, scalars: object) -> None:
        (process,) = evaluators(tmp_path)
        while "run=r epoch=4 -" not in Path(f"/proc/{process}/fd/1").read_text():
            time.sleep(0.05)

    settings = config(tmp_path, evaluate=3, checkpoint_interval=2)
    assert train(settings) == 0
    TinyCheckpointManager("r", tmp_path).file("agent", 4).write_bytes(b"damaged")
    capfd.readouterr()
    assert train(settings, on_epoch=wait) == 0
    (score,) = open_scores(tmp_path).get_scores("r", epoch=4).values()
    assert capfd.readouterr().out == f"run=r epoch=4 CartPole-v1 {score_text(score)}\n"


def test_its_failure_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Training that ends with its evaluation, or that goes on unscored and silent."""
    (tmp_path / "folder").mkdir()

    def wait(trainer: object, scalars: object) -> None:
        for process in evaluators(tmp_path):  # until it has ended, which nobody has asked yet
            os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)

    assert train(config(tmp_path, evaluate=3, eval_db=str(tmp_path / "folder")), on_epoch=wait) == 0
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"run=r is evaluated no more, and trains on: metta sim: {tmp_path}/folder")
    assert TinyCheckpointManager("r", tmp_path).list_epochs() == [0, 1, 2, 3, 4]


def test_ctrl_c_leaves_without_the_last_score(tmp_path: Path) -> None:
    """Ctrl-C while nothing but a score was left to wait for said that an epoch is finished and saved, and took 6 s."""
    words = ["run=r", f"train_dir={tmp_path}", "total_timesteps=64", "evaluate=1_000_000"]
    words += [f"{key}={value}" for key, value in SMALL.items()]
    command = [sys.executable, "-m", "metta.tools.main", "train", *words]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        waits = "run=r waits for the score of epoch 1; Ctrl-C leaves without it\n"
        assert waits in iter(process.stderr.readline, "")
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().split("\n") == ["", "all is saved; leaving, once more to leave at once", ""]
    assert process.returncode == 130 and evaluators(tmp_path) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_it_ends_with_its_trainer(number: int, status: int, tmp_path: Path) -> None:
    """An evaluation without end that outlives a killed trainer, or that Ctrl-C waits for."""
    words = ["run=r", f"train_dir={tmp_path}", "env=CartPole-v1", "total_timesteps=100_000_000", "evaluate=1_000_000"]
    command = [sys.executable, "-m", "metta.tools.main", "train", *words]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE)
    while not evaluators(tmp_path):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == status
    until = time.monotonic() + 20
    while evaluators(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    assert evaluators(tmp_path) == []
