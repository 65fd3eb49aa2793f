"""Evaluation: fixed seeds, each played once, and the same scores however many processes play them."""

import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.nn import functional

from metta.agent.policy_agent import PolicyAgent
from metta.agent.untrusted import agent_file
from metta.envs.env_spec import EnvName, EnvSpec
from metta.envs.make_env import spec_of
from metta.errors import EnvError, UserCodeError, UserError
from metta.eval.eval_db import EvalDB
from metta.eval.policy_evaluator import PolicyEvaluator
from metta.processes.worker import Worker
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.sim import simulation
from metta.sim.simulation import SimulationPool, default_num_envs
from metta.tools import sim
from tests.helpers.commands import result_of
from tests.helpers.recorded_runs import ARENA, save_new_agent


class LengthEnv(gymnasium.Env):
    """An episode has seed % 100 steps, of reward 1."""

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        assert seed is not None
        self.left = seed % 100
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        return np.zeros(2, np.float32), 1.0, self.left == 0, False, {}


gymnasium.register("test/LengthEnv", entry_point=LengthEnv)  # type: ignore[arg-type]


def save_agent(train_dir: Path, env: str, lstm: bool = False, **settings: Any) -> None:
    """As epoch 0 of run=run."""
    torch.manual_seed(0)
    save_new_agent(train_dir, "run", 0, env, settings, lstm)


class Faulty(PolicyAgent):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise KeyError("key")


def test_what_an_agent_of_ones_own_raises_is_one_line(tmp_path: Path) -> None:
    """A traceback through ours and torch's for a fault of theirs."""
    agent = Faulty(spec_of(EnvName("CartPole-v1")))
    state = {"config": {"env": "CartPole-v1", "env_settings": {}}, "epoch": 0, "agent_steps": 0}
    TinyCheckpointManager("run", tmp_path).save_checkpoint(agent, 0, state)
    said = r"^agent Faulty failed: KeyError: 'key' \(test_policy_evaluator.py:\d+\)$"
    with PolicyEvaluator(tmp_path) as evaluator, pytest.raises(UserCodeError, match=said):
        evaluator.evaluate("run", 0, episodes=1)


def threads_of_helpers() -> list[threading.Thread]:
    """Each waits for one helping process."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("simulations of env=")]


def helpers_of(evaluator: PolicyEvaluator) -> list[Worker]:
    """The processes, once each thread has started its own."""
    assert evaluator._simulations is not None and evaluator._simulations._pool is not None
    workers = evaluator._simulations._pool._processes.workers
    while len(workers) < len(threads_of_helpers()):
        time.sleep(0.001)
    return list(workers)


@pytest.fixture
def shared_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process plays a batch only once a helper has played one, so that both take part."""
    submit, play_here = SimulationPool._submit, SimulationPool._play_here
    submitted: list[Future] = []

    def remember(self: SimulationPool, *arguments: Any) -> Any:
        submitted[:] = submit(self, *arguments)
        return list(submitted)

    def after_a_helper(self: SimulationPool, *arguments: Any) -> Any:
        if submitted and self._num_workers:
            wait(submitted, return_when=FIRST_COMPLETED)
        return play_here(self, *arguments)

    monkeypatch.setattr(SimulationPool, "_submit", remember)
    monkeypatch.setattr(SimulationPool, "_play_here", after_a_helper)


@pytest.mark.parametrize(
    ("env", "lstm", "settings", "sampled"),
    [
        ("CartPole-v1", True, {}, False),
        ("CartPole-v1", True, {}, True),
        ("Pendulum-v1", False, {}, True),
        ("arena", True, ARENA, False),
    ],
)
@pytest.mark.usefixtures("shared_work")
def test_processes_change_no_score(
    tmp_path: Path, env: str, lstm: bool, settings: dict[str, Any], sampled: bool
) -> None:
    """Noise or recurrent state that depends on who plays which episode, or episodes that get lost on the way."""
    rows, recordings, random = [], [], []
    for num_workers in (0, 1, 2):
        train_dir = tmp_path / str(num_workers)
        save_agent(train_dir, env, lstm, **settings)
        with PolicyEvaluator(train_dir, num_envs=2, num_workers=num_workers) as evaluator:
            for _ in range(2):  # the second time with environments that have played before
                assert evaluator.evaluate("run", 0, episodes=5, seed=3, sampled=sampled).episodes == 5
                (label,) = EvalDB(train_dir / "eval.db").get_scores("run", 0, sampled=sampled)
                rows.append(EvalDB(train_dir / "eval.db").episodes("run", 0, label, sampled))
                (file,) = (train_dir / "run" / "replays").iterdir()
                with np.load(file) as arrays:
                    recordings.append({name: arrays[name].tobytes() for name in arrays.files})
            random.append(evaluator.evaluate_random(EnvName(env, settings), episodes=5, seed=3))
    assert [row.seed for row in rows[0]] == [3, 4, 5, 6, 7]
    assert all(other == rows[0] for other in rows)
    assert all(other == recordings[0] for other in recordings)
    assert random == [random[0]] * 3


@pytest.mark.parametrize(("env", "settings"), [("CartPole-v1", {}), ("arena", ARENA)])
def test_sampled_scores_are_apart(tmp_path: Path, env: str, settings: dict[str, Any]) -> None:
    """Drawn actions that replace the scores and recordings of the likeliest ones, or that are the likeliest ones."""
    save_agent(tmp_path, env, **settings)
    with PolicyEvaluator(tmp_path, num_workers=0) as evaluator:
        likeliest = evaluator.evaluate("run", 0, episodes=4)
        sampled = evaluator.evaluate("run", 0, episodes=4, sampled=True)
    db, label = EvalDB(tmp_path / "eval.db"), EnvName(env, settings).label
    assert db.get_scores("run", 0) == {label: likeliest} and db.get_scores("run", 0, sampled=True) == {label: sampled}
    assert (likeliest == sampled) == (env == "arena")  # where copies meet they draw anyway, from the same generators
    assert len(list((tmp_path / "run/replays").iterdir())) == 2


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("num_envs", [1, 3, 64])
@pytest.mark.usefixtures("shared_work")
def test_each_seed_is_played_once(tmp_path: Path, num_envs: int, num_workers: int) -> None:
    """Short episodes counted more often than long ones: a mean over whichever episodes end first."""
    save_agent(tmp_path, "test/LengthEnv")
    with PolicyEvaluator(tmp_path, num_envs=num_envs, num_workers=num_workers) as evaluator:
        assert evaluator.evaluate("run", 0, episodes=20, seed=101).mean == 10.5  # of lengths 1 to 20
    rows = EvalDB(tmp_path / "eval.db").episodes("run", 0, "test/LengthEnv")
    assert [(row.seed, row.length) for row in rows] == [(100 + length, length) for length in range(1, 21)]


def test_a_score_is_of_the_file_that_was_loaded(tmp_path: Path) -> None:
    """A score lost because its checkpoint was pruned while the episodes played, or stored as a later file's."""
    with PolicyEvaluator(tmp_path) as evaluator:
        save_agent(tmp_path, "CartPole-v1")
        loaded = evaluator.load("run", 0)
        assert evaluator.score(loaded, episodes=3).episodes == 3
        save_new_agent(tmp_path, "run", 0, "CartPole-v1", {})
        assert evaluator.score(loaded, episodes=2, seed=3).episodes == 2
        with closing(sqlite3.connect(tmp_path / "eval.db")) as connection:
            stored = connection.execute("SELECT agent_crc, count(*) FROM episodes").fetchall()
        assert stored == [(loaded.agent_crc, 3 + 2)]
        other = evaluator.load("run", 0)
        for file in (tmp_path / "run" / "checkpoints").iterdir():
            file.unlink()
        assert evaluator.score(other, episodes=1).episodes == 1  # what another file earned is gone


def test_a_fingerprint_is_of_the_agent_that_was_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old agent's scores stored as those of the checkpoint that replaced it while it was loaded."""
    save_agent(tmp_path, "CartPole-v1")
    load_agent, loads = TinyCheckpointManager.load_agent, 0

    def replaced_once(manager: TinyCheckpointManager, epoch: int) -> Any:
        nonlocal loads
        loads += 1
        agent = load_agent(manager, epoch)
        if loads == 1:
            save_new_agent(tmp_path, "run", 0, "CartPole-v1", {})
        return agent

    monkeypatch.setattr(TinyCheckpointManager, "load_agent", replaced_once)
    with PolicyEvaluator(tmp_path) as evaluator:
        first, again = evaluator.load("run", 0), evaluator.load("run", 0)
    assert loads == 3 and first.agent_crc == again.agent_crc
    weights = again.agent.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.agent.state_dict().items())


EDITED = """
import gymnasium, numpy as np
from beside_edited import REWARD

class Env(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        return np.zeros(2, np.float32), {}
    def step(self, action):
        return np.zeros(2, np.float32), REWARD, True, False, {}

def doubled(env):
    return gymnasium.wrappers.TransformReward(env, lambda reward: 2 * reward)

SUITE = {"a:b": Env}
"""


@pytest.mark.parametrize(
    ("words", "label", "factor"),
    [
        (("env=edited.py:Env",), "edited.py:Env", 1),
        (("env=edited:SUITE/a:b",), "edited.py:SUITE/a:b", 1),
        (("env=CartPole-v1", "env.wrappers=edited:doubled"), "CartPole-v1[wrappers=edited:doubled]", 0),
    ],
)
def test_scores_in_an_edited_environment_replace_those_before(
    tmp_path: Path, words: tuple[str, ...], label: str, factor: int
) -> None:
    """A mean over the rewards of two rules: 252.50, where every episode gives 5 by the old one or 500 by the new."""
    (tmp_path / "edited.py").write_text(EDITED)
    (tmp_path / "beside_edited.py").write_text("REWARD = 5")
    save_new_agent(tmp_path, "run", 0, *("CartPole-v1", {}) if factor == 0 else (f"{tmp_path}/edited.py:Env", {}))
    changed = f"metta: the code of {label} has changed: scores of run=run epoch=0 are replaced\n"
    for episodes, reward, kept, said in ((6, 5, 6, ""), (3, 5, 6, ""), (3, 500, 3, changed), (4, 500, 4, "")):
        (tmp_path / "beside_edited.py").write_text(f"REWARD = {reward}")
        sim = ["-m", "metta.tools.main", "sim", "run=run", f"episodes={episodes}", "train_dir=.", *words]
        done = result_of(tmp_path, [sys.executable, *sim])
        *_, mean, _, _, _, count = done.stdout.splitlines()[-1].split()
        assert done.stderr == f"run=run epoch=0: {episodes} episodes of {label}\n{said}"
        assert int(count) == kept and (factor == 0 or float(mean) == factor * reward)


def test_sim_loads_an_agent_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file read twice, and a stranger's pickle inspected twice, only to learn which environment it plays."""
    save_agent(tmp_path, "CartPole-v1")
    file = tmp_path / "elsewhere.pt"
    shutil.copy(TinyCheckpointManager("run", tmp_path).file("agent", 0), file)
    trusting, untrusted = Mock(wraps=torch.load), Mock(wraps=agent_file.load_untrusted)
    monkeypatch.setattr(torch, "load", trusting)
    monkeypatch.setattr(agent_file, "load_untrusted", untrusted)
    for who in ("run=run", f"agent={file}"):
        assert sim.main([who, "episodes=1", f"train_dir={tmp_path}"]) == 0
    assert (trusting.call_count, untrusted.call_count) == (1, 1)


@pytest.mark.parametrize(
    ("epoch", "episodes", "seed", "said"),
    [
        (0, 0, 0, "episodes=0: must be at least 1"),
        (0, 4, -1, "seed=-1 episodes=4: seeds are 0 to 2147483647"),
        (0, 3, 2**31 - 2, "seed=2147483646 episodes=3: seeds are 0 to 2147483647"),
        (0, 1, 2**70, f"seed={2**70} episodes=1: seeds are 0 to 2147483647"),
        (0, 2.0, 0, "episodes=2.0: must be a whole number"),
        (0, "2", 0, "episodes='2': must be a whole number"),
        (0, 2, None, "seed=None: must be a whole number"),
        ("2", 1, 0, "epoch='2': must be a whole number"),
        ("latest", 1, 0, "epoch='latest': must be a whole number"),
    ],
)
def test_what_cannot_be_played_is_no_score(tmp_path: Path, epoch: Any, episodes: Any, seed: Any, said: str) -> None:
    """Prevents 0.0 for an evaluation of nothing, a score of fewer episodes than were asked for, and tracebacks."""
    save_agent(tmp_path, "CartPole-v1")
    with PolicyEvaluator(tmp_path) as evaluator, pytest.raises(UserError, match=f"^{said}$"):
        evaluator.evaluate("run", epoch, episodes=episodes, seed=seed)
    assert not (tmp_path / "eval.db").exists()


def test_a_text_is_neither_true_nor_false(tmp_path: Path) -> None:
    """Prevents sampled="false", as a script reads it, from drawing actions."""
    save_agent(tmp_path, "CartPole-v1")
    text: Any = "false"
    with PolicyEvaluator(tmp_path) as evaluator, pytest.raises(UserError, match="^sampled='false': must be True or F"):
        evaluator.evaluate("run", 0, episodes=1, sampled=text)
    assert not (tmp_path / "eval.db").exists()


def test_scores_are_kept_where_a_recording_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents a run folder that may not be written from losing the scores of all episodes, which go elsewhere."""
    save_agent(tmp_path, "CartPole-v1")
    (tmp_path / "run/replays").touch()
    with PolicyEvaluator(tmp_path, eval_db=tmp_path / "elsewhere.db") as evaluator:
        score = evaluator.evaluate("run", 0, episodes=2)
    assert EvalDB(tmp_path / "elsewhere.db", tmp_path).get_scores("run", 0) == {"CartPole-v1": score}
    assert "metta: scored, but no recording of run=run epoch=0 kept: FileExistsError: " in capsys.readouterr().err


def test_where_nothing_can_play_is_said_at_once() -> None:
    """Prevents a traceback of torch's, or of a text that is no executor, in the middle of the first evaluation."""
    with pytest.raises(UserError, match="^device=gpu: must be auto, cpu, "):
        PolicyEvaluator(device="gpu")
    with pytest.raises(UserError, match="^device=cuda:99: torch sees no such GPU here"):
        PolicyEvaluator(device="cuda:99")
    with pytest.raises(UserError, match="^num_envs=0: must be at least 1$"):
        PolicyEvaluator(num_envs=0)
    with pytest.raises(UserError, match="^num_workers=-1: must be at least 0$"):
        PolicyEvaluator(num_workers=-1)
    executor: Any = "local"
    with pytest.raises(UserError, match="^executor=local: not an executor as concurrent.futures has them$"):
        PolicyEvaluator(executor=executor)


def test_the_last_seed_is_played(tmp_path: Path) -> None:
    """Prevents a bound that is off by one from refusing a seed which the command line takes."""
    save_agent(tmp_path, "CartPole-v1")
    with PolicyEvaluator(tmp_path) as evaluator:
        assert evaluator.evaluate("run", 0, episodes=2, seed=2**31 - 2).episodes == 2


def test_threads_take_turns(tmp_path: Path) -> None:
    """Prevents a score stored as one agent's that another's episodes earned, in environments that both played in."""
    for epoch in range(3):
        torch.manual_seed(epoch)
        save_new_agent(tmp_path, "run", epoch, "CartPole-v1", {})
    with PolicyEvaluator(tmp_path, num_workers=0) as evaluator:
        alone = [evaluator.evaluate("run", epoch, episodes=3, sampled=True) for epoch in range(3)]
        random = evaluator.evaluate_random("CartPole-v1", episodes=3)
        (tmp_path / "eval.db").unlink()
        with ThreadPoolExecutor(4) as threads:
            scores = [
                threads.submit(evaluator.evaluate, "run", epoch, episodes=3, sampled=True) for epoch in [0, 1, 2] * 3
            ]
            others = [threads.submit(evaluator.evaluate_random, "CartPole-v1", episodes=3) for _ in range(3)]
        assert [score.result() for score in scores] == alone * 3
        assert [other.result() for other in others] == [random] * 3
    history = EvalDB(tmp_path / "eval.db").get_scores("run", sampled=True)
    assert history == {epoch: {"CartPole-v1": score} for epoch, score in enumerate(alone)}


def test_a_helper_that_dies_is_named_and_the_evaluator_goes_on(tmp_path: Path) -> None:
    """Waiting for ever for episodes of a process that the system killed; an evaluator that is of no use after that."""
    save_agent(tmp_path, "CartPole-v1")
    with PolicyEvaluator(tmp_path, num_envs=1, num_workers=1) as evaluator:
        evaluator.evaluate("run", 0, episodes=3)
        (worker,) = helpers_of(evaluator)
        os.kill(worker._process.pid, signal.SIGKILL)
        text = "^the worker process of simulations of env=CartPole-v1 died: killed by signal 9$"
        with pytest.raises(EnvError, match=text):
            for _ in range(1000):  # until it is the helper's turn
                evaluator.evaluate("run", 0, episodes=3)
        assert not threads_of_helpers()
        assert evaluator.evaluate("run", 0, episodes=3).episodes == 3


def test_help_comes_once_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process started for a tenth of a second's work; more of them than batches; or none, ever."""
    save_agent(tmp_path, "CartPole-v1")
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    with PolicyEvaluator(tmp_path, num_envs=2) as evaluator:
        for threshold, helpers in ((1e9, 0), (0.0, 2)):
            monkeypatch.setattr(simulation, "HELP_AFTER_S", threshold)
            evaluator.evaluate("run", 0, episodes=6)
            assert len(threads_of_helpers()) == helpers
        called = helpers_of(evaluator)
        assert len(called) == 2
    assert all(worker._process.returncode is not None for worker in called)
    assert not threads_of_helpers()


def test_torch_s_threads_are_as_before(tmp_path: Path) -> None:
    """A library call that leaves the caller's torch on one thread."""
    save_agent(tmp_path, "CartPole-v1")
    torch.set_num_threads(2)
    with PolicyEvaluator(tmp_path) as evaluator:
        evaluator.evaluate("run", 0, episodes=1)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("num_agents", "episodes", "num_envs"),
    [
        (1, 1, 1),
        (1, 2, 1),
        (1, 3, 2),
        (1, 100, 50),
        (1, 1000, 63),
        (24, 20, 10),
        (24, 100, 10),
        (24, 11, 6),
        (999, 5, 1),
    ],
)
def test_batches_are_of_one_size(num_agents: int, episodes: int, num_envs: int) -> None:
    """A batch of two episodes left over, for which the other processes wait."""
    spec = EnvSpec(EnvName("test"), num_agents, "vector", (3,), "float32", 2)
    assert default_num_envs(spec, episodes) == num_envs


class Forgetful(PolicyAgent):
    """Drops nine tenths of what it knows while it is trained."""

    def forward(self, observations: Any, state: Any = (), starts: Any = None) -> Any:
        params, values, state = super().forward(observations, state, starts)
        return functional.dropout(params, 0.9, self.training), values, state


def test_an_agent_is_evaluated_as_it_acts_and_not_as_it_learns(tmp_path: Path) -> None:
    """Dropout that stays on: a score of an agent that nobody would deploy, and another one each time."""
    torch.manual_seed(0)
    agent = Forgetful(spec_of(EnvName("CartPole-v1")))
    assert agent.training
    for parameter in agent.parameters():
        torch.nn.init.normal_(parameter)  # so that it prefers now the one action and now the other
    state = {"config": {"env": "CartPole-v1", "env_settings": {}}, "epoch": 0, "agent_steps": 0}
    TinyCheckpointManager("run", tmp_path).save_checkpoint(agent, 0, state)
    with PolicyEvaluator(tmp_path, num_workers=0) as evaluator:
        evaluator.evaluate("run", 0, episodes=4)
    agent.eval()
    for row in EvalDB(tmp_path / "eval.db").episodes("run", 0, "CartPole-v1"):
        alone = gymnasium.make("CartPole-v1")
        observation, length, over = alone.reset(seed=row.seed)[0], 0, False
        while not over:
            action = agent.act(observation[None], deterministic=True)[0].item()
            observation, _, terminated, truncated, _ = alone.step(action)
            length, over = length + 1, terminated or truncated
        assert row.length == length


def test_threads_of_an_executor_share_what_they_play_in(tmp_path: Path) -> None:
    """Wrong scores, other ones each time, where several threads step the same environments."""
    save_agent(tmp_path, "CartPole-v1")
    with PolicyEvaluator(tmp_path, num_envs=4) as evaluator:
        alone = evaluator.evaluate("run", 0, episodes=64)
    with ThreadPoolExecutor(4) as executor, PolicyEvaluator(tmp_path, num_envs=4, executor=executor) as evaluator:
        assert evaluator.evaluate("run", 0, episodes=64) == alone
