"""GymnasiumEnv: what Gymnasium does, byte for byte, and one line for whatever cannot be done."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from metta.envs.env_spec import EnvName
from metta.envs.make_env import Env, check_env, make_env
from metta.errors import UserError

ROOT = Path(__file__).parents[2]


class SpacesEnv(gymnasium.Env):
    """Any spaces: an observation is a draw from its space, and the action it got is kept in `taken`."""

    def __init__(self, observations: spaces.Space, actions: spaces.Space, scale: float = 1.0, render_mode: Any = None):
        self.observation_space, self.action_space = observations, actions
        self.drawn: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        self.observation_space.seed(seed)
        return self.draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.taken = action
        return self.draw(), 1.0, False, False, {}

    def draw(self) -> Any:
        self.drawn.append(self.observation_space.sample())
        return self.drawn[-1]


@pytest.fixture
def registered() -> Any:
    """`test/Spaces-v0`, with its spaces as settings."""
    gymnasium.register("test/Spaces-v0", entry_point=SpacesEnv)  # type: ignore[arg-type]
    yield
    del gymnasium.registry["test/Spaces-v0"]


FLAT, TWO = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)


def spaces_env(observations: spaces.Space = FLAT, actions: spaces.Space = TWO) -> Any:
    return make_env(EnvName("test/Spaces-v0", {"observations": observations, "actions": actions}))


class Arrays:
    """Arrays for one environment, as VecEnv binds them."""

    def __init__(self, env: Env):
        agents = env.spec.num_agents
        self.observations = np.zeros((agents, *env.spec.observation_shape), env.spec.observation_dtype)
        self.rewards = np.zeros(agents, np.float32)
        self.terminated, self.truncated = np.zeros(agents, bool), np.zeros(agents, bool)
        env.bind(self.observations, self.rewards, self.terminated, self.truncated)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "gymnasium.envs.classic_control:Acrobot-v1"])
def test_steps_are_gymnasiums(name: str) -> None:
    """A wrapper left out that mattered, a reward of another step, a limit off by one."""
    env, theirs = make_env(EnvName(name)), gymnasium.make(name)
    arrays = Arrays(env)
    actions = np.random.default_rng(0)
    for seed in range(3):
        env.reset(seed)
        assert np.array_equal(arrays.observations[0], theirs.reset(seed=seed)[0].astype(np.float32))
        while not (arrays.terminated[0] or arrays.truncated[0]):
            if env.spec.num_actions is not None:
                action = actions.integers(0, env.spec.num_actions, 1)
                outcome = theirs.step(action[0])
            else:
                action = actions.uniform(-1, 1, (1, 1)).astype(np.float32)
                outcome = theirs.step(2 * action[0])
            env.step(action)
            assert np.array_equal(arrays.observations[0], outcome[0].astype(np.float32))
            assert arrays.rewards[0] == np.float32(outcome[1])
            assert (arrays.terminated[0], arrays.truncated[0]) == outcome[2:4]
        arrays.terminated[:] = arrays.truncated[:] = False


def test_an_end_is_one_or_the_other() -> None:
    """A death in the last allowed step taken for a time-out, so that the critic bootstraps from a dead state."""
    settings = {"max_episode_steps": 9}
    env = make_env(EnvName("CartPole-v1", settings))
    arrays = Arrays(env)
    env.reset(1)
    for step in range(9):  # pushed to one side, it falls at the ninth step
        assert not arrays.terminated[0] and not arrays.truncated[0], step
        env.step(np.array([1]))
    theirs = gymnasium.make("CartPole-v1", max_episode_steps=9)
    theirs.reset(seed=1)
    assert [theirs.step(1)[2:4] for _ in range(9)][-1] == (True, True)
    assert arrays.terminated[0] and not arrays.truncated[0]


@pytest.mark.parametrize(
    ("space", "kind", "shape", "dtype"),
    [
        (spaces.Box(-1, 1, (3,)), "vector", (3,), "float32"),
        (spaces.Box(-1, 1, (3,), np.float64), "vector", (3,), "float32"),
        (spaces.Box(-9, 9, (), np.float32), "vector", (1,), "float32"),
        (spaces.Box(-1, 1, (3, 2)), "vector", (6,), "float32"),
        (spaces.Box(0, 9, (4,), np.int64), "vector", (4,), "float32"),
        (spaces.Box(0, 255, (128,), np.uint8), "vector", (128,), "uint8"),
        (spaces.Box(0, 255, (8, 6), np.uint8), "image", (1, 8, 6), "uint8"),
        (spaces.Box(0, 255, (8, 6, 3), np.uint8), "image", (8, 6, 3), "uint8"),
        (spaces.Box(0, 1, (8, 6, 4), bool), "image", (8, 6, 4), "bool"),  # type: ignore[arg-type]
        (spaces.Box(0, 1, (4, 8, 6), np.float64), "image", (4, 8, 6), "float32"),
    ],
)
@pytest.mark.usefixtures("registered")
def test_observations(space: spaces.Box, kind: str, shape: tuple[int, ...], dtype: str) -> None:
    """An observation flattened in the wrong order, or cut to its first number."""
    env = spaces_env(space)
    spec, arrays = env.spec, Arrays(env)
    assert (spec.observation_kind, spec.observation_shape, spec.observation_dtype) == (kind, shape, dtype)
    env.reset(0)
    env.step(np.array([0]))
    assert np.array_equal(arrays.observations[0].ravel(), env._env.drawn[-1].ravel().astype(dtype))


def test_recorded_actions_are_bytes() -> None:
    """MountainCar's `action - 1` is 255 where the action 0 is a byte: a replay of another episode."""
    ends = []
    for dtype in (np.uint8, np.int64):
        env = make_env(EnvName("MountainCar-v0"))
        arrays = Arrays(env)
        env.reset(0)
        for action in (0, 1, 2, 0, 0):
            env.step(np.array([action], dtype))
        ends.append(arrays.observations.tobytes())
    assert ends[0] == ends[1]


@pytest.mark.usefixtures("registered")
def test_discrete_actions_that_do_not_start_at_zero() -> None:
    """Every action off by `start`."""
    env = spaces_env(actions=spaces.Discrete(3, start=-1))
    Arrays(env)
    env.reset(0)
    taken = []
    for action in range(3):
        env.step(np.array([action]))
        taken.append(int(env._env.taken))
    assert env.spec.num_actions == 3 and taken == [-1, 0, 1]


@pytest.mark.usefixtures("registered")
def test_continuous_actions() -> None:
    """Actions out of bounds, of the wrong shape, or clipped where there is no bound; bounds never reached, or left."""
    low, high = np.array([[-1, -np.inf], [15, -np.inf]]), np.array([[1, np.inf], [30, 2]])
    env = spaces_env(actions=spaces.Box(low, high, dtype=np.float64))
    Arrays(env)
    assert env.spec.action_shape == (4,) and env.spec.num_actions is None  # flat, as the agent's parameters are
    assert env.spec.action_low == (-1, -np.inf, -1, -np.inf) and env.spec.action_high == (1, np.inf, 1, np.inf)
    env.reset(0)
    for chosen, taken in (
        ([-3, -1e9, 7, 1e9], [[-1, -1e9], [30, 2]]),
        ([0.25, 3, -0.5, -3], [[0.25, 3], [18.75, -3]]),
    ):
        sent = np.array([chosen], np.float32)
        env.step(sent)
        assert env._env.taken.tolist() == taken and env._env.taken.dtype == np.float64
        assert sent.tolist() == [chosen]  # what is recorded stays what was chosen
    largest = np.finfo(np.float32).max
    far = spaces_env(actions=spaces.Box(-largest, largest, (1,)))
    Arrays(far)
    far.reset(0)
    far.step(np.array([[0.5]], np.float32))
    assert far.spec.action_high == (np.inf,) and far._env.taken.tolist() == [0.5]

    scalar = spaces_env(actions=spaces.Box(-1, 1, ()))
    Arrays(scalar)
    scalar.reset(0)
    scalar.step(np.array([[0.5]], np.float32))
    assert scalar.spec.action_shape == (1,) and scalar._env.taken.shape == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NoSuchEnv-v0", "env=NoSuchEnv-v0 is not an environment; there are arena, navigation and the ids"),
        ("cartpole-v1", "env=cartpole-v1 is not an environment; nearest: CartPole-v1"),
        ("CartPole", "env=CartPole is not an environment; nearest: CartPole-v"),
        ("arenna", "env=arenna is not an environment; nearest: arena"),
        ("Taxi-v0", "env=Taxi-v0 is not an environment; nearest: Taxi-v"),
        ("no_such_package:A-v0", "env=no_such_package:A-v0: No module named 'no_such_package'"),
        ("gymnasium:A-v0", "env=gymnasium:A-v0 is not an environment; there are "),
    ],
)
def test_unknown_names_get_the_nearest(name: str, text: str) -> None:
    """A typing error answered by a traceback, or by the list of a thousand names."""
    for check in (check_env, make_env):
        with pytest.raises(ValueError) as caught:
            check(EnvName(name))
        assert str(caught.value).startswith(text) and "\n" not in str(caught.value)
        assert str(caught.value).count(",") <= 2 and "Ant" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearest names for a name that is right, but whose package is not there."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(gymnasium.registry, "MinAtar/Breakout-v1", raising=False)
    with pytest.raises(ValueError) as caught:
        check_env(EnvName("MinAtar/Breakout-v1"))
    text = "env=MinAtar/Breakout-v1 needs the package minatar, which is missing: pip install 'metta[minatar]'"
    assert str(caught.value) == text


@pytest.mark.usefixtures("registered")
def test_pictures_in_training_and_none_in_a_replay() -> None:
    """A wrapper that trains from pixels refused; a replay refused in Gymnasium's words, for it can draw nothing."""
    pixels = make_env(EnvName("CartPole-v1", {"render_mode": "rgb_array"}), "rgb_array")
    assert pixels._env.render_mode == "rgb_array"  # type: ignore[attr-defined]
    gymnasium.register("test/Plain-v0", entry_point=lambda: SpacesEnv(FLAT, TWO))  # type: ignore[arg-type]
    Arrays(make_env(EnvName("test/Plain-v0"), "rgb_array"))
    del gymnasium.registry["test/Plain-v0"]


def test_a_reason_without_words_is_told_by_its_line() -> None:
    """ "cannot be made:", and nothing after it."""

    def made() -> gymnasium.Env:
        raise AssertionError

    gymnasium.register("test/Bare-v0", entry_point=made)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"cannot be made: AssertionError.* \(test_gymnasium_env.py:\d+\)$"):
        make_env(EnvName("test/Bare-v0"))
    del gymnasium.registry["test/Bare-v0"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"gee": 3.0}, "env.gee is not a setting of Pendulum-v1; it has g, max_episode_steps, render_mode"),
        ({"g": "strong"}, "env.g of Pendulum-v1 must be a number, not 'strong'"),
        ({"g": True}, "env.g of Pendulum-v1 must be a number, not True"),
        ({"max_episode_steps": 2.5}, "env.max_episode_steps of Pendulum-v1 must be a whole number from 1 on, not 2.5"),
        ({"max_episode_steps": 0}, "env.max_episode_steps of Pendulum-v1 must be a whole number from 1 on, not 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], text: str) -> None:
    """A setting that is dropped without a word, or fails at some later step."""
    for check in (check_env, make_env):
        with pytest.raises(ValueError) as caught:
            check(EnvName("Pendulum-v1", settings))
        assert str(caught.value) == text


def test_settings_reach_the_environment() -> None:
    """A setting that is accepted and ignored."""
    rewards = []
    for settings in ({}, {"g": 2.0}):
        env = make_env(EnvName("Pendulum-v1", settings))
        arrays = Arrays(env)
        env.reset(0)
        for _ in range(3):
            env.step(np.zeros((1, 1), np.float32))
        rewards.append(float(arrays.rewards[0]))
        assert env.spec.env.settings == settings
    assert rewards[0] != rewards[1]
    assert env.spec.env.label == "Pendulum-v1[g=2.0]"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            gymnasium.error.DependencyNotInstalled("Box2D is missing,\n   pip install box2d"),
            r"Box2D is missing, pip install box2d",
        ),
        (
            gymnasium.error.DependencyNotInstalled('Box2D is not installed, run `pip install "gymnasium[box2d]"`'),
            r"it needs a package that is missing: pip install 'metta\[box2d\]'",
        ),
        (KeyError("a"), r"KeyError: 'a' \(test_gymnasium_env.py:\d+\)"),
        (SystemExit(0), r"SystemExit: 0 \(test_gymnasium_env.py:\d+\)"),
    ],
)
def test_an_environment_that_cannot_be_made_says_why(error: BaseException, text: str) -> None:
    """The package that a registered environment needs, hidden in a traceback, or an end without a word."""

    def broken(**settings: Any) -> gymnasium.Env:
        raise error

    gymnasium.register("test/Broken-v0", entry_point=broken)
    try:
        with pytest.raises(ValueError) as caught:
            make_env(EnvName("test/Broken-v0"))
    finally:
        del gymnasium.registry["test/Broken-v0"]
    assert re.fullmatch(f"env=test/Broken-v0 cannot be made: {text}", str(caught.value))


def test_checking_a_name_imports_nothing_heavy() -> None:
    """A mistyped argument answered only after torch or MettaGrid was imported."""
    code = """
import sys
from metta.envs.env_spec import EnvName
from metta.envs.make_env import check_env
for name, settings in (("CartPole-v1", {}), ("arena", {"max_steps": 5}), ("Pendulum-v1", {"g": 2})):
    check_env(EnvName(name, settings))
heavy = {"torch", "mettagrid", "pandas", "matplotlib", "pygame"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


def test_minatar_episodes_do_not_leak() -> None:
    """MinAtar's sticky action survives its reset, so an episode depended on the one before."""
    pytest.importorskip("minatar")
    env: Any = make_env(EnvName("MinAtar/Breakout-v1"))
    arrays = Arrays(env)
    assert env.spec.observation_kind == "image" and env.spec.observation_dtype == "bool"

    def episode() -> bytes:
        env.reset(8)  # a seed with which the first action is replaced by the one before
        seen = b""
        for _ in range(5):
            env.step(np.array([1]))
            seen += arrays.observations.tobytes()
        return seen

    assert env._env.unwrapped.game is env._sticky_game
    first = episode()
    env.step(np.array([2]))
    assert episode() == first


def test_atari_gets_its_customary_preprocessing() -> None:
    """Training on single raw frames, where every published score is of stacked and skipped ones."""
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    env: Any = make_env(EnvName("ALE/Breakout-v5"))
    assert (env.spec.observation_shape, env.spec.observation_dtype) == ((4, 84, 84), "uint8")
    arrays = Arrays(env)
    env.reset(0)
    frame = env._env.unwrapped.ale.getEpisodeFrameNumber()
    env.step(np.array([0]))
    assert env._env.unwrapped.ale.getEpisodeFrameNumber() == frame + 4
    assert arrays.observations.any()
    raw = make_env(EnvName("ALE/Breakout-v5", {"preprocessing": False}))
    assert raw.spec.observation_shape == (210, 160, 3)


def test_minigrid_gives_its_image() -> None:
    """The image alone, as is customary; or with the direction, but without the mission, which is text."""
    pytest.importorskip("minigrid")
    assert make_env(EnvName("MiniGrid-Empty-5x5-v0")).spec.observation_shape == (7, 7, 3)
    whole = make_env(EnvName("MiniGrid-Empty-5x5-v0", {"preprocessing": False})).spec
    assert [(leaf.path, leaf.shape) for leaf in whole.leaves] == [(("direction",), (4,)), (("image",), (7, 7, 3))]


class AtTheEnd(gymnasium.Wrapper):
    """All rewards at once, in the last step."""

    def reset(self, **options: Any) -> Any:
        self.sum = 0.0
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        self.sum += float(reward)
        return observation, self.sum if terminated or truncated else 0.0, terminated, truncated, info


def test_wrappers_see_the_end_of_an_episode() -> None:
    """A time limit around all wrappers, which gymnasium.make has inside: what they do at the end is never done."""
    returns = []
    for settings in ({"max_episode_steps": 9}, {"max_episode_steps": 9, "wrappers": AtTheEnd}):
        env = make_env(EnvName("Pendulum-v1", settings))
        arrays, rewards = Arrays(env), []
        env.reset(0)
        for step in range(9):
            env.step(np.ones((1, 1), np.float32))
            rewards.append(float(arrays.rewards[0]))
            assert arrays.truncated[0] == (step == 8)
        returns.append(sum(rewards))
    assert returns[0] == pytest.approx(returns[1]) and rewards[:-1] == [0.0] * 8
