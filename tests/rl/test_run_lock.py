"""One trainer for each run."""

import errno
import fcntl
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metta.errors import MettaError, RunLockedError
from metta.rl.one_run import Trainer
from metta.rl.saving.checkpoint_saver import CheckpointSaver
from metta.rl.saving.run_lock import RunLock
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager, save_checkpoint
from metta.rl.train_config import TrainConfig
from metta.rl.trainer import train
from metta.tools.main import main

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "env": "CartPole-v1",
    "num_envs": 2,
    "horizon": 32,
    "hidden_size": 8,
    "total_timesteps": 256,
    "display": "none",
}
HOLDER = """
import os, sys, types
from pathlib import Path
from metta.rl.saving.run_lock import RunLock
if len(sys.argv) > 2:
    os.uname = lambda: types.SimpleNamespace(nodename=sys.argv[2])
with RunLock(Path(sys.argv[1], "trainer.lock")):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, *host: str) -> Iterator[subprocess.Popen]:
    """Another process that holds the run, until its standard input is closed."""
    command = [sys.executable, "-c", HOLDER, str(folder), *host]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """Prevents two trainers from writing one run's checkpoints. The answer names the process that holds the run."""
    with holder(tmp_path / "a") as process:
        for _ in range(2):  # a refusal must not loosen the lock
            with pytest.raises(RunLockedError) as refusal:
                RunLock(tmp_path / "a/trainer.lock").acquire()
            assert str(refusal.value) == f"{tmp_path / 'a'} is being trained by process {process.pid}"
        RunLock(tmp_path / "b/trainer.lock").acquire()
        process.communicate()
        with RunLock(tmp_path / "a/trainer.lock"):
            pass


def test_a_holder_on_another_host_is_named_with_it(tmp_path: Path) -> None:
    """Prevents a process number that means nothing here, where several machines share a train_dir."""
    with holder(tmp_path / "a", "far-away") as process, pytest.raises(RunLockedError) as refusal:
        RunLock(tmp_path / "a/trainer.lock").acquire()
    assert str(refusal.value).endswith(f"process {process.pid} on far-away")


def test_it_dies_with_its_process(tmp_path: Path) -> None:
    """Prevents a killed trainer's lock file from locking its run for ever."""
    with holder(tmp_path / "a") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / "a/trainer.lock").exists()
        with RunLock(tmp_path / "a/trainer.lock") as lock:
            assert lock.path.read_text() == f"{os.getpid()} {socket.gethostname()}\n"


def test_a_second_holder_in_the_same_process_is_refused(tmp_path: Path) -> None:
    """Prevents what record locks allow: that one process takes a lock twice, by whatever path."""
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with RunLock(tmp_path / "a/trainer.lock"):
        for path in (tmp_path / "a", tmp_path / "link"):
            with pytest.raises(RunLockedError, match=f"is being trained by process {os.getpid()}$"):
                RunLock(path / "trainer.lock").acquire()
        assert is_refused_elsewhere(tmp_path / "a")  # neither refusal has dropped the lock
    assert not is_refused_elsewhere(tmp_path / "a")


@pytest.mark.parametrize(
    "argv",
    [["runs"], ["train", "run=a"], ["sim", "run=a", "episodes=1"], ["analyze", "run=a"]],
    ids=lambda argv: argv[0],
)
def test_no_command_in_the_same_process_drops_it(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents a notebook that trains and looks at its runs from letting a second trainer in."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint(torch.nn.Linear(1, 1), "a", 0, {})
    folder = tmp_path / "train_dir/a"
    with RunLock(folder / "trainer.lock"):
        main(argv)
        assert argv != ["runs"] or " training " in capsys.readouterr().out
        assert is_refused_elsewhere(folder)
    assert not is_refused_elsewhere(folder)


def test_whatever_opens_and_closes_the_file_does_not_drop_it(tmp_path: Path) -> None:
    """Prevents a copy of the run's folder, made by the training process, from letting a second trainer in."""
    with RunLock(tmp_path / "a/trainer.lock") as lock:
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        lock.path.read_text()
        assert is_refused_elsewhere(tmp_path / "a") and not is_refused_elsewhere(tmp_path / "b")


@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"])
def test_a_file_system_without_locks_is_one_line(error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevents a traceback, or a run that a second trainer could enter, where locks are not to be had (Lustre)."""
    number = getattr(errno, error)

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "fcntl", fail)
    with pytest.raises(RunLockedError) as refusal:
        RunLock(tmp_path / "a/trainer.lock").acquire()
    assert str(refusal.value) == f"{tmp_path / 'a'} cannot be locked: {os.strerror(number)}"
    with pytest.raises(RunLockedError):  # and so before anything is written
        train(TrainConfig(run="a", train_dir=str(tmp_path), env="CartPole-v1"))
    assert not (tmp_path / "a/checkpoints").exists()


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """Prevents a traceback, or a new run, where the disk that a run's folder is a link to is not mounted."""
    (tmp_path / "a").symlink_to(tmp_path / "disk")
    with pytest.raises(MettaError, match=f"{tmp_path}/a is a link to {tmp_path}/disk, where nothing is"):
        train(TrainConfig(run="a", train_dir=str(tmp_path), env="CartPole-v1"))
    assert not (tmp_path / "disk").exists() and (tmp_path / "a").is_symlink()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/checkpoints").symlink_to(tmp_path / "disk")
    with pytest.raises(MettaError, match=f"{tmp_path}/b/checkpoints is a link to {tmp_path}/disk, where nothing is"):
        train(TrainConfig(run="b", train_dir=str(tmp_path), env="CartPole-v1", total_timesteps=1))
    assert os.listdir(tmp_path / "b") == ["checkpoints"]


def is_refused_elsewhere(folder: Path) -> bool:
    code = "import pathlib, sys; from metta.rl.saving.run_lock import RunLock; "
    code += "RunLock(pathlib.Path(sys.argv[1])).acquire()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "trainer.lock")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or "RunLockedError" in done.stderr
    return done.returncode != 0


def in_fork(lock: RunLock, refused: "multiprocessing.Queue[bool]") -> None:
    try:
        RunLock(lock.path).acquire()
    except RunLockedError:
        refused.put(True)
    lock.release()


def test_a_forked_process_neither_has_it_nor_gives_it_back(tmp_path: Path) -> None:
    """Prevents an environment's worker from ending its trainer's lock, or from keeping it after the trainer's end."""
    fork = multiprocessing.get_context("fork")
    refused: multiprocessing.Queue[bool] = fork.Queue()
    with RunLock(tmp_path / "a/trainer.lock") as lock:
        worker = fork.Process(target=in_fork, args=(lock, refused))
        worker.start()
        worker.join()
        assert worker.exitcode == 0 and refused.get()
        assert lock.path.exists()
        assert is_refused_elsewhere(tmp_path / "a")


def test_a_worker_does_not_outlive_its_trainer_with_the_lock(tmp_path: Path) -> None:
    """Prevents a run from staying locked by a left-over worker of a killed trainer."""
    forking = "    import os\n    os.fork()\n    os.write(1, b'%d\\n' % os.getpid())\n    sys.stdin"
    command = [sys.executable, "-c", HOLDER.replace("    sys.stdin", forking), str(tmp_path / "a")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=pipe, stdout=pipe) as trainer:
        assert trainer.stdout is not None
        lines = [trainer.stdout.readline() for _ in range(3)]
        assert lines[0] == b"held\n"
        (worker,) = {int(line) for line in lines[1:]} - {trainer.pid}
        try:
            trainer.kill()
            trainer.wait()
            os.kill(worker, 0)  # it lives
            with RunLock(tmp_path / "a/trainer.lock"):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)


def test_it_leaves_nothing(tmp_path: Path) -> None:
    """Prevents a lock file from being taken for part of the run, or for a checkpoint."""
    manager = TinyCheckpointManager("a", tmp_path)
    with RunLock(tmp_path / "a/trainer.lock") as lock:
        assert not manager.exists()
        assert lock.path.parent == tmp_path / "a"
    assert list((tmp_path / "a").iterdir()) == []
    lock.release()  # again: nothing happens
    with lock:
        assert lock.path.exists()


def test_a_lock_file_removed_by_others_is_not_removed_again(tmp_path: Path) -> None:
    """Prevents giving back a run from removing the lock file of the one who holds it now."""
    lock = RunLock(tmp_path / "a/trainer.lock")
    lock.acquire()
    lock.path.unlink()
    with holder(tmp_path / "a"):
        lock.release()
        assert is_refused_elsewhere(tmp_path / "a")


@pytest.mark.parametrize("another", [False, True])
def test_a_trainer_whose_folder_is_gone_saves_no_more(
    another: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents a forgotten trainer from saving its checkpoints into a new run of the same name."""
    begin = CheckpointSaver.save
    monkeypatch.setattr(CheckpointSaver, "save", lambda saver, *what: (begin(saver, *what), saver.wait()))
    folder, config = tmp_path / "a", TrainConfig(run="a", train_dir=str(tmp_path), **SMALL)
    with ExitStack() as stack:

        def remove(trainer: Trainer, scalars: dict[str, float]) -> None:
            if trainer.epoch == 2:
                shutil.rmtree(folder)
                if another:
                    stack.enter_context(holder(folder))

        with pytest.raises(RunLockedError, match=r"trainer\.lock is gone, or another trainer's, so"):
            train(config, remove)
        assert TinyCheckpointManager("a", tmp_path).list_epochs() == []


def test_a_renamed_checkpoint_goes_on_from_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents what is learned after it from being deleted as older than it. File names are the only metadata."""
    config = TrainConfig(run="a", train_dir=str(tmp_path), **SMALL)
    assert train(config) == 0
    manager = TinyCheckpointManager("a", tmp_path)
    last = manager.list_epochs()[-1]
    for kind in ("agent", "trainer"):
        manager.file(kind, last).rename(manager.file(kind, 50))
    assert train(replace(config, total_timesteps=512, keep_last=1)) == 0
    assert f"was saved as epoch {last} and is 50 by its name" in capsys.readouterr().err
    assert manager.list_epochs() == [50 + last]
