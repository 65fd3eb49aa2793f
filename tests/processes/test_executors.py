"""Tasks on other machines: what they return and raise comes back, and a lost one is done again."""

import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from metta.errors import EnvError, UserError
from metta.eval.eval_db import EvalDB
from metta.processes import executors
from metta.processes.executors import ATTEMPTS, LostError, Ray, RemoteExecutor, Slurm, open_executor
from metta.processes.pool import outcome
from metta.tools.main import main
from tests.helpers.commands import run_in
from tests.helpers.report_data import make_run

SMALL = "num_envs=2 horizon=16 minibatch_size=32 hidden_size=4 num_workers=0 checkpoint_interval=1 display=none"
ENV = """
import os
import gymnasium

class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        if os.path.exists("killer"):
            os.unlink("killer")
            os._exit(1)
        self.steps += 1
        observation = self.np_random.uniform(-1, 1, 3).astype("float32")
        return observation, float(action * observation[0]), False, self.steps == 20, {}
"""


class Fake:
    """A backend that calls here, and loses the first tasks that it is asked for."""

    def __init__(self, lost: int = 0, refuses: bool = False):
        self.lost, self.refuses = lost, refuses
        self.started: list[int] = []
        self.cancelled: list[Any] = []

    def start(self, calls: Sequence[bytes]) -> list[Any]:
        if self.refuses:
            raise OSError("sbatch: error: no such partition")
        self.started.append(len(calls))
        return list(calls)

    def result(self, handle: Any) -> tuple[Exception | None, Any] | None:
        if self.lost:
            self.lost -= 1
            raise LostError("node 7 is down")
        return None if b"never" in handle else outcome(handle)

    def cancel(self, handle: Any) -> None:
        self.cancelled.append(handle)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hundredths of a second; and the functions here go by value, as this module is nowhere else."""
    monkeypatch.setattr(executors, "POLL_S", 0.02)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def divide(a: int, b: int, mark: str = "") -> float:
    return a / b


def die_once(mark: str) -> int:
    """End the process like a node that is lost, the first time."""
    if not os.path.exists(mark):
        Path(mark).touch()
        os._exit(1)
    return os.getpid()


def test_what_is_returned_and_raised_comes_back() -> None:
    """A result of another task, or an error that nobody hears of."""
    fake = Fake()
    with RemoteExecutor(fake) as executor:
        futures = [executor.submit(divide, 6, b) for b in (1, 2, 3)]
        failing = executor.submit(divide, 1, b=0)
        assert [future.result() for future in futures] == [6, 3, 2]
        with pytest.raises(ZeroDivisionError) as caught:
            failing.result()
        assert "in divide" in caught.value.__notes__[0]
        assert list(executor.map(divide, (4, 9), (2, 3))) == [2, 3]
    assert fake.closed and sum(fake.started) == 6


def test_tasks_are_started_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that is asked a thousand times where one array of jobs would do."""
    monkeypatch.setattr(executors, "POLL_S", 0.5)
    fake = Fake()
    with RemoteExecutor(fake) as executor:
        wait([executor.submit(divide, 1, 1) for _ in range(100)])
    assert fake.started == [100]


def test_a_lost_task_is_done_again(capsys: pytest.CaptureFixture[str]) -> None:
    """A machine that is lost takes the whole evaluation with it, or its task is lost for good."""
    with RemoteExecutor(Fake(lost=3)) as executor:
        assert [future.result() for future in [executor.submit(divide, 6, b) for b in (1, 2)]] == [6, 3]
    assert capsys.readouterr().err == 3 * "metta: a task was lost, and is started again: node 7 is down\n"


def test_a_task_that_is_always_lost_is_given_up() -> None:
    """A task that kills its machine, and is started again for ever."""
    fake = Fake(lost=1000)
    lost = pytest.raises(EnvError, match=rf"^a task was lost {ATTEMPTS} times: node 7 is down$")
    with RemoteExecutor(fake) as executor, lost:
        executor.submit(divide, 6, 2).result()
    assert fake.started == [1] * ATTEMPTS


def test_a_scheduler_that_refuses_is_heard() -> None:
    """Waiting for ever for tasks that nobody has started."""
    refused = pytest.raises(EnvError, match="the tasks cannot be run: .*no such partition")
    with RemoteExecutor(Fake(refuses=True)) as executor, refused:
        executor.submit(divide, 6, 2).result()


def test_what_runs_is_cancelled_in_the_end() -> None:
    """Ctrl-C here, and jobs that go on there for hours."""
    fake = Fake()
    with RemoteExecutor(fake) as executor:
        executor.submit(divide, 6, 2, "never")
        while not fake.started:
            threading.Event().wait(0.01)
    assert len(fake.cancelled) == 1


def test_local_is_no_other_executor(tmp_path: Path) -> None:
    """A package that nobody needs here, asked for here."""
    assert open_executor("local", tmp_path) is None


@pytest.mark.parametrize("name, module", [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, capsys, name, module):
    """A traceback of an import, where one line says what to install."""
    make_run(tmp_path / "train_dir", "a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["sim", "run=a", f"executor={name}"]) == 2
    said = f"executor={name} needs {module} (pip install 'metta[{name}]')"
    assert capsys.readouterr().err == f"metta sim: {said}\n"
    with pytest.raises(UserError, match=re.escape(said)):
        open_executor(name, tmp_path)


@pytest.fixture(params=["slurm", "ray"])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RemoteExecutor]:
    """Processes of submitit, as there is no SLURM here; a Ray cluster of this machine."""
    if request.param == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("no Ray here: pip install ray")
    with RemoteExecutor(Slurm(tmp_path / "files" / "1") if request.param == "slurm" else Ray()) as executor:
        yield executor


@pytest.mark.slow
def test_processes_that_die_cost_their_tasks_again(executor, tmp_path, capsys):
    """As above, with what is really there."""
    marks = [str(tmp_path / f"mark-{i}") for i in range(2)]
    futures: list[Future[int]] = [executor.submit(die_once, mark) for mark in marks]
    other, failing = executor.submit(divide, 6, 2), executor.submit(divide, 1, 0)
    assert other.result(120) == 3 and os.getpid() not in [future.result(120) for future in futures]
    with pytest.raises(ZeroDivisionError):
        failing.result(120)
    assert capsys.readouterr().err.count("a task was lost, and is started again") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_the_scores_are_those_of_this_machine(tmp_path, name):
    """Another score on a cluster than here, rows that a worker wrote, or an evaluation lost with a worker."""
    if name == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("no Ray here: pip install ray")
    (tmp_path / "mine.py").write_text(ENV)
    command = [sys.executable, "-m", "metta.tools.main"]
    run_in(tmp_path, [*command, "train", "run=a", "env=mine.py:Mine", "total_timesteps=64", *SMALL.split()])
    sim = [*command, "sim", "run=a", "epoch=all", "episodes=5", "num_envs=2", "sampled=true"]
    expected, _ = run_in(tmp_path, [*sim, "eval_db=here.db"])
    (tmp_path / "killer").touch()
    out, err = run_in(tmp_path, [*sim, f"executor={name}", "eval_db=there.db"])
    assert out.endswith(expected) and err.count("a task was lost, and is started again") == 1
    assert list(EvalDB(tmp_path / "there.db").table()) == list(EvalDB(tmp_path / "here.db").table())
    assert not (tmp_path / "killer").exists()
