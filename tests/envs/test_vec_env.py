"""VecEnv: the same episodes with any number of workers, exact resume, and failures that say what failed."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from metta.envs import env_group
from metta.envs.env_spec import EnvName, EnvSpec
from metta.envs.make_env import spec_of
from metta.envs.vec_env import DealtSeeds, Episode, EpisodeSeeds, VecEnv
from metta.errors import EnvError, UserError

ROOT = Path(__file__).parents[2]
WORKERS = (0, 2)


class CountEnv(gymnasium.Env):
    """Counts its steps; an episode has seed % 100 of them, and the rewards are 0.1 and the action."""

    observation_space = Box(-np.inf, np.inf, (2,))
    action_space = Discrete(300)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        assert seed is not None
        self.count, self.length = 0, seed % 100
        return np.array([0, seed], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        return np.array([self.count, action], np.float32), 0.1 + int(action), self.count >= self.length, False, {}


class NoiseEnv(CountEnv):
    """Draws its observations from the system, so no episode repeats."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        noise = np.frombuffer(os.urandom(8), np.uint32).astype(np.float32)
        return noise, 0.0, False, False, {}


class HiddenNoiseEnv(CountEnv):
    """Draws only its rewards from the system."""

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(2, np.float32), float(int.from_bytes(os.urandom(3))), False, False, {}


class FailingEnv(CountEnv):
    """Fails at the third step; the environment with seed 7 ends its process instead."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.seed = seed
        return super().reset(seed=seed)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.count == 2:
            if self.seed == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("the ball is gone")
        return super().step(action)


@pytest.fixture(autouse=True)
def registered() -> Any:
    """The environments above, under the ids test/NAME."""
    for kind in (CountEnv, NoiseEnv, HiddenNoiseEnv, FailingEnv):
        gymnasium.register(f"test/{kind.__name__}", entry_point=kind)  # type: ignore[arg-type]
    yield
    for kind in (CountEnv, NoiseEnv, HiddenNoiseEnv, FailingEnv):
        del gymnasium.registry[f"test/{kind.__name__}"]


def random_actions(envs: VecEnv, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if envs.spec.num_actions is None:
        return rng.normal(size=(envs.batch_size, *envs.spec.action_shape))
    return rng.integers(0, envs.spec.num_actions, envs.batch_size)


def play(envs: VecEnv, steps: range) -> tuple[list[bytes], list[tuple]]:
    """Everything that came out of these steps, byte for byte: the arrays, and the episodes."""
    arrays, episodes = [envs.observations.tobytes()], []
    for step in steps:
        for episode in envs.step(random_actions(envs, step)):
            rows = slice(episode.env_index * envs.num_agents, (episode.env_index + 1) * envs.num_agents)
            episodes.append((*as_tuple(episode), envs.final_observations[rows].tobytes()))
        outcome = (envs.observations, envs.rewards, envs.terminated, envs.truncated, envs.active)
        arrays.append(b"".join(array.tobytes() for array in outcome))
    return arrays, episodes


def as_tuple(episode: Episode) -> tuple:
    parts = (episode.env_index, episode.episode_index, episode.seed, episode.length, episode.metrics)
    return (*parts, episode.returns.tobytes(), episode.actions.tobytes())


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "arena", "navigation"])
def test_workers_change_nothing(name: str) -> None:
    """Results that depend on the number of workers: rows in another order, a reset seen too early, seeds by worker."""
    settings = {"max_episode_steps": 30} if "-" in name else {"max_steps": 30}
    traces = []
    for num_workers in WORKERS:
        envs = VecEnv(spec_of(EnvName(name, settings)), 3, EpisodeSeeds(5), num_workers)
        envs.reset()
        traces.append(play(envs, range(70)))
        envs.close()
    assert traces[0] == traces[1]
    assert len(traces[0][1]) >= 6


def test_seeds_decide_everything() -> None:
    """Environments seeded from the clock, or all of them alike."""
    first, again, other = (VecEnv(spec_of(EnvName("CartPole-v1")), 2, EpisodeSeeds(seed)) for seed in (1, 1, 2))
    for envs in (first, again, other):
        envs.reset()
    assert first.observations[0].tobytes() != first.observations[1].tobytes()
    trace = play(first, range(100))
    assert trace == play(again, range(100)) != play(other, range(100))
    first.reset()
    assert play(first, range(100)) == trace


def test_episode_seeds() -> None:
    """A change of how seeds are derived would silently end the reproducibility of every old run."""
    seeds = EpisodeSeeds(0)
    assert [seeds(0, 0), seeds(0, 1), seeds(1, 0)] == [821328062, 1683718082, 1817441348]
    assert EpisodeSeeds(1)(0, 0) == 1835504127
    many = {seeds(env, episode) for env in range(50) for episode in range(50)}
    assert len(many) == 2500 and all(seed is not None and 0 <= seed < 2**31 for seed in many)


@pytest.mark.parametrize("num_workers", WORKERS)
def test_dealt_episodes(num_workers: int) -> None:
    """Short episodes counted more often than long ones; an idle environment that goes on being counted."""
    envs = VecEnv(spec_of(EnvName("test/CountEnv")), 4, DealtSeeds(()), num_workers)
    for seeds in (range(110, 114), range(114, 116), range(116, 119)):
        envs.reset(DealtSeeds(seeds))
        assert envs.active.tolist() == [index < len(seeds) for index in range(4)]
        played = []
        while envs.active.any():
            idle = ~envs.active
            played += envs.step(np.ones(4, int))
            assert not envs.rewards[idle].any() and not envs.terminated[idle].any()
        assert [(episode.env_index, episode.seed) for episode in played] == list(enumerate(seeds))
        assert all(episode.length == episode.seed % 100 and episode.episode_index == 0 for episode in played)
        assert envs.step(np.ones(4, int)) == []
    envs.close()


def test_returns_are_summed_in_double_precision() -> None:
    """Sums in float32 drift: ninety-nine times 1.1 is 108.90001."""
    envs = VecEnv(spec_of(EnvName("test/CountEnv")), 1, lambda env, episode: 99)
    envs.reset()
    ended = [episode for _ in range(99) for episode in envs.step(np.ones(1, int))]
    assert ended[0].returns.dtype == np.float64
    assert ended[0].returns[0] == sum([float(np.float32(1.1))] * 99)


@pytest.mark.parametrize("num_workers", WORKERS)
def test_recorded_actions(num_workers: int) -> None:
    """A log of actions that forgets, repeats or wraps (300 actions in a byte) gives replays of something else."""
    envs = VecEnv(spec_of(EnvName("test/CountEnv")), 4, lambda env, episode: [99, 3, 70, 1][env], num_workers)
    envs.reset()
    sent, start = [], [0, 0, 0, 0]
    for step in range(500):
        actions = random_actions(envs, step)
        sent.append(actions)
        for episode in envs.step(actions):
            index = episode.env_index
            expected = np.array(sent)[start[index] :, index : index + 1]
            assert np.array_equal(episode.actions, expected) and episode.length == len(expected)
            start[index] = step + 1
    envs.close()


def test_terminated_and_truncated_stay_apart() -> None:
    """A time-out taken for a death makes the critic learn that time is up."""
    envs = VecEnv(spec_of(EnvName("CartPole-v1", {"max_episode_steps": 12})), 2, EpisodeSeeds(0))
    envs.reset()
    outcomes = set()
    for step in range(60):
        before = gymnasium_replay(envs)
        push = np.array([0, step % 2])  # the first falls, the second stays up until its time is over
        for episode in envs.step(push):
            index = episode.env_index
            outcomes.add((index, bool(envs.terminated[index]), bool(envs.truncated[index])))
            last = before[index].step(push[index])[0]
            assert np.array_equal(envs.final_observations[index], last.astype(np.float32))
            first = gymnasium.make("CartPole-v1").reset(seed=int(envs.state_dict()["seeds"][index]))[0]
            assert np.array_equal(envs.observations[index], first)
    assert outcomes == {(0, True, False), (1, False, True)}


def gymnasium_replay(envs: VecEnv) -> list[gymnasium.Env]:
    """Gymnasium's own environments at the same step of the same episodes."""
    state = envs.state_dict()
    replayed = []
    for seed, actions in zip(state["seeds"], state["actions"], strict=True):
        env = gymnasium.make("CartPole-v1")
        env.reset(seed=int(seed))
        for action in actions:
            env.step(int(action[0]))
        replayed.append(env)
    return replayed


class TwoAgentEnv:
    """Two agents; the second is done after one step, the first after three."""

    def __init__(self) -> None:
        self.spec = EnvSpec(EnvName("two"), 2, "vector", (1,), "float32", 2)

    def bind(self, *arrays: np.ndarray) -> None:
        self.observations, self.rewards, self.terminated, self.truncated = arrays

    def reset(self, seed: int) -> None:
        self.count = 0
        self.observations[:] = 0

    def step(self, actions: np.ndarray) -> None:
        self.count += 1
        self.observations[:] = self.count
        self.rewards[:] = (1, self.count == 1)
        self.terminated[:] = (self.count == 3, self.count >= 1)
        self.truncated[:] = False

    def metrics(self) -> dict[str, float]:
        return {"count": self.count}

    def render(self) -> None: ...

    def close(self) -> None: ...


def test_an_episode_ends_when_all_its_agents_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """An episode cut short by the first agent that is done, or ended once for each."""
    monkeypatch.setattr(env_group, "make_env", lambda env: TwoAgentEnv())
    envs = VecEnv(TwoAgentEnv().spec, 2, EpisodeSeeds(0))
    envs.reset()
    ended = [len(envs.step(np.zeros(4, int))) for _ in range(5)]
    assert ended == [0, 0, 2, 0, 0]
    (episode, _) = envs.step(np.zeros(4, int))
    assert episode.length == 3 and episode.returns.tolist() == [3, 1] and episode.metrics == {"count": 3}
    assert episode.actions.shape == (3, 2)


@pytest.mark.parametrize(("name", "before", "after"), [("CartPole-v1", 0, 2), ("arena", 0, 0), ("navigation", 2, 0)])
def test_resume_in_the_middle_of_episodes(name: str, before: int, after: int) -> None:
    """A resume that restarts episodes, forgets half a return, or depends on the number of workers."""
    settings = {} if "-" in name else {"max_steps": 45}
    envs = VecEnv(spec_of(EnvName(name, settings)), 3, EpisodeSeeds(9), before)
    envs.reset()
    play(envs, range(70))
    state = envs.state_dict()
    expected = play(envs, range(70, 140))
    envs.close()
    resumed = VecEnv(spec_of(EnvName(name, settings)), 3, EpisodeSeeds(9), after)
    assert resumed.load_state_dict(state) == []
    assert_equal_states(resumed.state_dict(), state)
    assert play(resumed, range(70, 140)) == expected
    assert max(number for _, number, *_ in expected[1]) >= 2
    resumed.close()


def assert_equal_states(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for key, values in left.items():
        for mine, theirs in zip(values, right[key], strict=True):
            assert mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes(), key


def test_resume_with_idle_environments() -> None:
    """An idle environment taken for one that did not reproduce; its actions looked up where the log has none."""

    def seeds(env: int, episode: int) -> int | None:
        return {(0, 0): 150, (0, 1): 152, (1, 0): 151}.get((env, episode))

    envs = VecEnv(spec_of(EnvName("test/CountEnv")), 2, seeds)
    envs.reset()
    for step in range(100):  # environment 0 is at its second episode; the other has been idle for 49 steps
        envs.step(random_actions(envs, step))
    state = envs.state_dict()
    resumed = VecEnv(spec_of(EnvName("test/CountEnv")), 2, seeds)
    assert resumed.load_state_dict(state) == []
    assert resumed.active.tolist() == [True, False]
    trace = play(envs, range(100, 120))
    assert play(resumed, range(100, 120)) == trace and len(trace[1]) == 1


@pytest.mark.parametrize("name", ["test/NoiseEnv", "test/HiddenNoiseEnv"])
@pytest.mark.parametrize("num_workers", WORKERS)
def test_what_does_not_reproduce_is_found(name: str, num_workers: int) -> None:
    """A resume that claims to be exact, from an environment that never repeats itself."""
    envs = VecEnv(spec_of(EnvName(name)), 3, EpisodeSeeds(0), num_workers)
    envs.reset()
    envs.step(np.ones(3, int))
    state = envs.state_dict()
    assert envs.load_state_dict(state) == [0, 1, 2]
    now = envs.state_dict()
    assert now["episode_index"].tolist() == [1, 1, 1] and [len(actions) for actions in now["actions"]] == [0, 0, 0]
    assert now["seeds"].tolist() == [EpisodeSeeds(0)(index, 1) for index in range(3)]
    assert not now["returns"].any()
    assert envs.step(np.ones(3, int)) == []
    envs.close()


def test_a_replay_that_ends_too_early_is_found() -> None:
    """An episode that ended during its replay, and was stepped on."""
    envs = VecEnv(spec_of(EnvName("test/CountEnv")), 2, lambda env, episode: 50 + env)
    envs.reset()
    for _ in range(10):
        envs.step(np.ones(2, int))
    state = envs.state_dict()
    state["seeds"][0] = 5
    assert envs.load_state_dict(state) == [0]


def test_a_state_of_other_environments_is_refused() -> None:
    """A state of three environments poured into two."""
    envs = [VecEnv(spec_of(EnvName("CartPole-v1")), count, EpisodeSeeds(0)) for count in (3, 2)]
    envs[0].reset()
    with pytest.raises(ValueError, match="^the saved state is of num_envs=3, this is num_envs=2$"):
        envs[1].load_state_dict(envs[0].state_dict())


def test_impossible_numbers_are_refused() -> None:
    """Zero environments would step for ever without an episode."""
    with pytest.raises(ValueError, match="^num_envs=0 must be at least 1, and num_workers=0 at least 0$"):
        VecEnv(spec_of(EnvName("CartPole-v1")), 0, EpisodeSeeds(0))


@pytest.mark.parametrize("num_workers", WORKERS)
def test_a_failing_environment_is_named(num_workers: int) -> None:
    """A hang, or a traceback from another process, where one line would tell."""
    envs = VecEnv(spec_of(EnvName("test/FailingEnv")), 4, lambda env, episode: 40 + env, num_workers)
    envs.reset()
    for _ in range(2):
        envs.step(np.ones(4, int))
    where = "environment 0 of env=test/FailingEnv failed in the episode of seed 40"
    with pytest.raises(EnvError) as caught:
        envs.step(np.ones(4, int))
    assert re.fullmatch(rf"{where}: ZeroDivisionError: the ball is gone \(test_vec_env.py:\d+\)", str(caught.value))
    envs.close()


SPOILT = {
    "old_reset": ("reset", [3.0, 7.0], "ValueError: reset must return (observation, info), info a dict"),
    "no_info": ("reset", ([3.0, 7.0], None), "ValueError: reset must return (observation, info), info a dict"),
    "one_number": ("reset", (np.zeros(1), {}), "ValueError: an observation of shape (1,), its space has (2,)"),
    "bare_number": ("step", (3.0, 0, False, False, {}), "ValueError: an observation of shape (), its space has (2,)"),
    "three": ("step", ([1, 2, 3], 0, False, False, {}), "ValueError: an observation of shape (3,), its space has (2,)"),
    "none": ("step", (None, 0, True, False, {}), "ValueError: an observation of None, its space has (2,)"),
    "nan_byte": ("step", (np.full(2, np.nan), 0, False, False, {}), "ValueError: nan in an observation, its space"),
    "half_bytes": ("step", (np.full(2, 0.5), 0, False, False, {}), "ValueError: 0.5 in an observation, its space"),
    "no_bytes": ("step", (np.full(2, -1), 0, False, False, {}), "ValueError: -1 in an observation, its space"),
    "late_mask": (
        "step",
        ([1, 2], 0, False, False, {"action_mask": [1]}),
        "ValueError: an action mask, where the first",
    ),
    "old_step": (
        "step",
        ([1, 2], 0, False, {}),
        "ValueError: step must return (observation, reward, terminated, truncated, info)",
    ),
    "no_reward": ("step", ([1, 2], None, False, False, {}), "ValueError: None for a reward"),
    "rewards": ("step", ([1, 2], np.ones(2), False, False, {}), "ValueError: a reward of shape (2,), not a number"),
    "exit": ("step", SystemExit(0), "SystemExit: 0 (test_vec_env.py:"),
    "exit_at_reset": ("reset", SystemExit(0), "SystemExit: 0 (test_vec_env.py:"),
}


class SpoiltEnv(CountEnv):
    """Returns what SPOILT has at `key`, or raises it."""

    def __init__(self, key: str):
        self.where, self.what, _ = SPOILT[key]
        if "byte" in key:
            self.observation_space = Box(0, 255, (2,), np.uint8)  # type: ignore[arg-type]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        return super().reset(seed=seed) if self.where == "step" else self.spoilt()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self.spoilt()

    def spoilt(self) -> Any:
        if isinstance(self.what, BaseException):
            raise self.what
        return self.what


@pytest.mark.parametrize("key", SPOILT)
def test_what_an_environment_must_not_return_is_named(key: str) -> None:
    """One number taken for all of an observation, or an observation for info; `sys.exit` that ended training with 0."""
    gymnasium.register("test/SpoiltEnv", entry_point=SpoiltEnv)  # type: ignore[arg-type]
    envs = VecEnv(spec_of(EnvName("test/SpoiltEnv", {"key": key})), 1, lambda env, episode: 40)
    del gymnasium.registry["test/SpoiltEnv"]
    with pytest.raises(EnvError) as caught:
        envs.reset()
        envs.step(np.ones(1, int))
    where = "environment 0 of env=test/SpoiltEnv failed in the episode of seed 40: "
    assert str(caught.value).startswith(where + SPOILT[key][2]) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("what", "number"), [("a reward", 0), ("an observation", 1)])
def test_what_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch, what: str, number: int) -> None:
    """A NaN that spoils the agent for good, or a line in broken English."""
    outcome: list[Any] = [1.0, np.zeros(2)]
    outcome[number] = outcome[number] * np.nan
    monkeypatch.setattr(CountEnv, "step", lambda self, action: (outcome[1], outcome[0], False, False, {}))
    envs = VecEnv(spec_of(EnvName("test/CountEnv")), 1, lambda env, episode: 40)
    envs.reset()
    with pytest.raises(EnvError, match=f"of env=test/CountEnv gave nan in {what} at step 1 of the episode of seed 40$"):
        envs.step(np.ones(1, int))


@pytest.mark.parametrize("reward", [np.array([1.5]), np.array([[1.5]], np.float32), [1.5]])
def test_a_reward_in_an_array_is_a_number(monkeypatch: pytest.MonkeyPatch, reward: Any) -> None:
    """Somebody's `rewards[i:i + 1]` answered with "setting an array element with a sequence"."""
    monkeypatch.setattr(CountEnv, "step", lambda self, action: (np.zeros(2), reward, False, False, {}))
    envs = VecEnv(spec_of(EnvName("test/CountEnv")), 1, EpisodeSeeds(0))
    envs.reset()
    envs.step(np.ones(1, int))
    assert envs.rewards.tolist() == [1.5]


def test_a_worker_that_dies_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for ever for a worker that the system killed."""
    envs = VecEnv(spec_of(EnvName("test/FailingEnv")), 4, lambda env, episode: [88, 88, 7, 88][env], 2)
    envs.reset()
    for _ in range(2):
        envs.step(np.ones(4, int))
    text = "^the worker process of environments 2 to 3 of env=test/FailingEnv died: killed by signal 9$"
    monkeypatch.setattr(envs._group, "step", list)
    monkeypatch.setattr(envs._workers[0], "receive", list)
    with pytest.raises(EnvError, match=text):
        envs.step(np.ones(4, int))
    envs.close()


SCRIPT = """
import os, signal, sys
import gymnasium, numpy as np
from metta.errors import EnvError
from metta.envs.env_spec import EnvName
from metta.envs.make_env import spec_of
from metta.envs.vec_env import EpisodeSeeds, VecEnv

class ScriptEnv(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        return np.ones(1, np.float32), 1.0, True, False, {}

gymnasium.register("script/Class-v0", entry_point=ScriptEnv)
gymnasium.register("script/Name-v0", entry_point="__main__:ScriptEnv")
envs = VecEnv(spec_of(EnvName("script/" + sys.argv[1])), 2, EpisodeSeeds(0), 2)
envs.reset()
assert len(envs.step(np.zeros(2, int))) == 2
print("ready", flush=True)
"""


def run_script(ending: str, env: str = "Class-v0") -> subprocess.CompletedProcess:
    """Run SCRIPT, then `ending`. Returns when every process that can write to its output is gone, workers included."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT + textwrap.dedent(ending), env]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("env", ["Class-v0", "Name-v0"])
def test_a_script_may_register_its_own(env: str) -> None:
    """Workers that import the user's script again, or cannot find what it registered."""
    result = run_script("envs.close()", env)
    assert result.returncode == 0 and result.stdout == "ready\n" and result.stderr == ""


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("", 0),  # forgotten
        ("del envs", 0),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("[worker.step() for worker in envs._workers]; os._exit(4)", 4),
    ],
)
def test_workers_leave_with_their_parent(ending: str, status: int) -> None:
    """Orphans that spin or hold memory, and warnings of leaked segments."""
    before = set(os.listdir("/dev/shm"))
    result = run_script(ending)
    assert result.stdout == "ready\n" and result.stderr == ""
    assert result.returncode == status
    assert set(os.listdir("/dev/shm")) <= before


def test_signals_are_the_parents_to_answer() -> None:
    """Ctrl-C that kills the workers, so that the trainer cannot finish its epoch and save."""
    result = run_script(
        """
        for pid in [worker._process.pid for worker in envs._workers]:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
            assert os.getpgid(pid) != os.getpgid(0)
        for _ in range(20):
            assert len(envs.step(np.zeros(2, int))) == 2
        """
    )
    assert result.returncode == 0 and result.stderr == ""


class AskingEnv(CountEnv):
    """Gives a reward for the actions above which there is another."""

    action_space = Discrete(2)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(2, np.float32), float(self.action_space.contains(int(action) + 1)), False, False, {}


def test_an_environment_s_action_space_answers_as_ever() -> None:
    """Another game: the check of actions was left out, and a space said that it contains everything."""
    envs = VecEnv(spec_of(EnvName(f"{__name__}:AskingEnv")), 2, lambda env, episode: 40)
    envs.reset()
    envs.step(np.array([0, 1]))
    assert envs.rewards.tolist() == [1, 0]
    envs.close()


class ChangingEnv(CountEnv):
    """Its spaces are others each time that it is made: a wider one, or more actions."""

    made = 0

    def __init__(self, what: str):
        ChangingEnv.made += 1
        if what == "observations":
            self.observation_space = Box(-np.inf, np.inf, (ChangingEnv.made,))
        else:
            self.action_space = Discrete(1 + ChangingEnv.made)


@pytest.mark.parametrize(
    ("what", "said"),
    [("observations", "observation shape"), ("actions", "num actions")],
    ids=["observations", "actions"],
)
@pytest.mark.parametrize("num_workers", WORKERS)
def test_environments_with_other_spaces_are_refused(num_workers: int, what: str, said: str) -> None:
    """Rows that are half filled, and actions that an environment has not."""
    name = f"{__name__}:ChangingEnv"
    with pytest.raises(UserError) as caught:
        VecEnv(spec_of(EnvName(name, {"what": what})), 3, lambda env, episode: 40, num_workers)
    assert str(caught.value).endswith(f"each that is made must have the same spaces, and another has another {said}")
