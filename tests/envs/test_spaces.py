"""What is read of each space: every number of an observation, in its place; and what becomes of an action."""

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from metta.envs.env_spec import EnvName, EnvSpec
from metta.envs.make_env import make_env, spec_of
from metta.envs.spaces import ObservationReader, action_converter, describe_actions
from metta.envs.vec_env import EpisodeSeeds, VecEnv
from metta.errors import EnvError, UserError
from tests.helpers.space_envs import Board, Car, Goal, Lamps, env_name

TWO = spaces.Discrete(2)


def spec_with(reader: ObservationReader, masked: bool = False) -> EnvSpec:
    return EnvSpec(EnvName("e"), 1, num_actions=4, **reader.fields(masked))


@pytest.mark.parametrize(
    ("space", "value", "row", "dtype"),
    [
        (spaces.Discrete(4), 2, [0, 0, 1, 0], "uint8"),
        (spaces.Discrete(3, start=-1), -1, [1, 0, 0], "uint8"),
        (spaces.MultiDiscrete([2, 3]), [1, 0], [0, 1, 1, 0, 0], "uint8"),
        (spaces.MultiDiscrete(np.array([[2, 2]]), start=np.array([[0, 5]])), [[1, 6]], [0, 1, 0, 1], "uint8"),
        (spaces.MultiBinary((2, 2)), [[1, 0], [0, 1]], [1, 0, 0, 1], "uint8"),
        (spaces.Tuple((spaces.Discrete(2), spaces.Box(-9, 9, (2,)))), (1, [-3, 4]), [-3, 4, 0, 1], "float32"),
        (spaces.Tuple((spaces.Text(5), spaces.Discrete(2))), ("ab", 0), [1, 0], "uint8"),
        (spaces.Tuple((spaces.Box(0, 1, (0,)), spaces.Discrete(2))), ([], 0), [1, 0], "uint8"),
        (
            spaces.Dict({"a": spaces.Box(0, 255, (1, 2, 1), np.uint8), "b": spaces.Dict({"c": spaces.Discrete(2)})}),
            {"b": {"c": 1}, "a": [[[7], [200]]], "unknown": 1},
            [0, 1, 7, 200],
            "uint8",
        ),
    ],
    ids=str,
)
def test_rows(space: spaces.Space, value: Any, row: list[float], dtype: str) -> None:
    """Numbers in the wrong columns, a start forgotten, or leaves in an order that the encoder does not expect."""
    reader = ObservationReader("e", space, ())
    spec = spec_with(reader)
    written = np.full(spec.observation_shape, 9, spec.observation_dtype)
    reader.write(written, value)
    assert (spec.observation_kind, spec.observation_dtype, written.tolist()) == ("composite", dtype, row)


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (spaces.Box(0, 1, (2, 2, 2, 2)), "Box(0.0, 1.0, (2, 2, 2, 2), float32)"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Graph(TWO, None)})}), "Graph(Discrete(2), None) in a.b"),
        (spaces.Tuple((spaces.Text(3),)), "Tuple(Text(1, 3, charset="),
        (spaces.Discrete(2**40), f"Discrete({2**40})"),
        (spaces.Dict({}), "Dict()"),
        (spaces.Box(0, 1, (2, 0)), "Box([], [], (2, 0), float32)"),
    ],
    ids=str,
)
def test_spaces_without_numbers_are_named(space: spaces.Space, text: str) -> None:
    """A user turned away without the wrapper that lets the environment in; a row of a trillion numbers."""
    with pytest.raises(UserError) as caught:
        ObservationReader("mine", space, ())
    said = str(caught.value)
    assert said.startswith(f"env=mine has observations that no agent reads: {text}") and "\n" not in said
    assert "gymnasium.wrappers.TransformObservation(" in said and said.endswith("env.wrappers=path.py:f")


def test_actions_that_no_agent_produces_are_named() -> None:
    """An environment that fails at its first step."""
    huge = (spaces.Discrete(10**9), spaces.MultiDiscrete([2, 10**6]), spaces.MultiBinary(10**6))
    for space in (spaces.Box(0, 9, (2,), np.int64), spaces.Dict({"a": spaces.Discrete(2)}), spaces.Text(3), *huge):
        with pytest.raises(UserError) as caught:
            describe_actions("mine", space)
        assert str(caught.value).startswith(f"env=mine has actions that no agent produces: {space}; wanted Discrete, ")
        assert "gymnasium.wrappers.TransformAction(" in str(caught.value)


@pytest.mark.parametrize(
    ("space", "sent", "taken"),
    [
        (spaces.MultiDiscrete([2, 3], start=[0, -1]), [[1, 2]], [1, 1]),
        (spaces.MultiDiscrete(np.array([[2], [3]])), [[1, 2]], [[1], [2]]),
        (spaces.MultiBinary((2, 2)), [[1, 0, 0, 1]], [[1, 0], [0, 1]]),
    ],
    ids=str,
)
def test_choices_reach_the_environment(space: spaces.Space, sent: Any, taken: Any) -> None:
    """A start forgotten, or wrapped round where the recorded actions are bytes."""
    sizes = describe_actions("e", space)["action_sizes"]
    for dtype in (np.uint8, np.int64):
        action = action_converter(space)(np.array(sent, dtype))
        assert action.tolist() == taken and space.contains(action) and len(sizes) == len(sent[0])


@pytest.mark.parametrize("kind", [Goal, Car, Lamps, Board])
def test_every_number_arrives(kind: type[gymnasium.Env]) -> None:
    """A leaf left out or written twice: the row has the numbers that Gymnasium's own `flatten` has."""
    space: Any = kind.observation_space
    reader = ObservationReader("e", space, ())
    row = np.zeros(spec_with(reader).observation_shape, np.float64)
    spaces_read = {key: part for key, part in space.items() if key != "road"} if kind is Car else space
    flat = spaces.Dict(spaces_read) if kind is Car else space
    for seed in range(5):
        space.seed(seed)
        value = space.sample()
        reader.write(row, value)
        assert sorted(row) == sorted(spaces.flatten(flat, value))


def test_what_the_spec_says() -> None:
    """Masks that are not found, a leaf of another kind, or a text that is not said to be left out."""
    car = spec_of(EnvName(env_name(Car)))
    assert [leaf.path for leaf in car.leaves] == [("inside", 1, "x"), ("gear",), ("inside", 0), ("lights",), ("eye",)]
    assert [leaf.kind for leaf in car.leaves] == ["vector", *["flags"] * 3, "image"]
    assert car.masked and car.observation_shape == (1 + 3 + 4 + 5 + 108 + 9,)
    assert (car.choices, car.action_shape, car.num_actions) == ((3, 2, 4), (3,), None)
    board, taxi = spec_of(EnvName(env_name(Board))), spec_of(EnvName("Taxi-v4"))
    assert board.masked and [leaf.path for leaf in board.leaves] == [("observation",)]
    assert taxi.masked and taxi.observation_shape == (506,)
    assert not spec_of(EnvName("FrozenLake-v1")).masked
    limited: Any = gymnasium.wrappers.TimeLimit(Car(), 5)
    gymnasium.register("test/Limited-v0", entry_point=lambda: limited)  # type: ignore[arg-type]
    assert spec_of(EnvName("test/Limited-v0")).masked


def test_the_text_left_out_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Silence about what the agent does not see, or a line from each of a hundred environments."""
    name = EnvName("test/Car-v0")
    spec = spec_of(name)
    VecEnv(spec, 3, EpisodeSeeds(0)).reset()
    assert spec_of(name) == spec
    assert capsys.readouterr().err == "metta: env=test/Car-v0: text is left out of the observations: road\n"


def test_masks_are_those_of_the_moment() -> None:
    """The mask of the step before, or of the episode before: Car and Board refuse what is forbidden."""
    for kind in (Car, Board):
        spec = spec_of(EnvName(env_name(kind)))
        envs = VecEnv(spec, 3, EpisodeSeeds(1))
        envs.reset()
        starts = np.cumsum((0, *spec.choices[:-1]))
        for _ in range(40):
            mask = spec.mask_in(envs.observations)
            chosen = [part.argmax(1) for part in np.split(mask, starts[1:], 1)]  # the first that is allowed
            envs.step(np.stack(chosen, 1).reshape(envs._arrays.actions.shape))
        envs.close()


def test_a_mask_that_forbids_everything_is_one_line() -> None:
    """An agent that draws among nothing, and the environment's assertion long after the fault."""
    spec = spec_of(EnvName("test/Stuck-v0"))
    envs = VecEnv(spec, 2, lambda env_index, _: env_index - 2, first_env=6)
    envs.reset()
    with pytest.raises(EnvError) as caught:
        for action in range(9):
            envs.step(np.array([action, action]))
    where = "environment 6 of env=test/Stuck-v0"
    assert (
        str(caught.value) == f"{where} gave an action mask that forbids every action at step 3 of the episode of seed 4"
    )


def test_masks_of_the_wrong_length_are_named() -> None:
    """Choices masked by their neighbours' flags."""
    reader = ObservationReader("e", Lamps.observation_space, (3,))
    with pytest.raises(ValueError, match="an action mask of 2 numbers, where the actions have 3"):
        reader.write(np.zeros(8), [0] * 5, [1, 0])


def test_observations_outside_their_space_are_named() -> None:
    """Another leaf's column set, by an index beyond its own."""
    row = np.zeros(5)
    for space, value in ((spaces.Discrete(5), -1), (spaces.MultiDiscrete([2, 3]), [2, 0])):
        with pytest.raises(ValueError, match="is not in"):
            ObservationReader("e", space, ()).write(row, value)


@pytest.mark.parametrize(
    ("space", "value", "text"),
    [
        (spaces.Box(0, 1, (3,)), np.ones(1, np.float32), "an observation of shape (1,), its space has (3,)"),
        (spaces.MultiDiscrete([3, 4]), [2], "an observation of shape (1,), its space has (2,)"),
        (spaces.MultiBinary((2, 2)), 1, "an observation of shape (), its space has (2, 2)"),
        (spaces.Discrete(3), [1, 2], "an observation of shape (2,), its space has ()"),
        (spaces.Box(0, 1, (1,)), None, "an observation of None, its space has (1,)"),
        (spaces.Box(0, 9, (2,), np.uint8), [1, 0.5], "0.5 in an observation, its space is of uint8"),
        (spaces.Box(0, 9, (2,), np.uint8), np.array([1, 300]), "300 in an observation, its space is of uint8"),
        (spaces.MultiBinary(2), [0.5, 1], "0.5 in an observation, its space is of int8"),
        (spaces.Discrete(3), 1.5, "the observation 1.5 is not in Discrete(3)"),
        (spaces.Box(0, 9, (2,), np.uint8), [1, np.nan], "nan in an observation, its space is of uint8"),
    ],
    ids=str,
)
def test_leaves_that_do_not_fit_are_named(space: spaces.Space, value: Any, text: str) -> None:
    """One number that numpy repeats in all of a leaf's columns; one that it rounds or wraps around, as 0.5 to 0."""
    reader = ObservationReader("e", spaces.Dict({"a": space}), ())
    spec = spec_with(reader)
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        reader.write(np.zeros(spec.observation_shape, spec.observation_dtype), {"a": value})


class Film(gymnasium.Env):
    """Pictures whose numbers go from 0 to 255 and are not bytes, bare or beside another observation."""

    def __init__(self, dtype: str = "float32", bare: bool = True):
        picture = spaces.Box(0, 255, (3, 5, 5), np.dtype(dtype))
        self.observation_space = picture if bare else spaces.Dict({"eye": picture, "speed": spaces.Box(0, 255, (1,))})
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.step(0)[0], {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        picture = np.arange(75).reshape(3, 5, 5) + 180 * action
        bare = isinstance(self.observation_space, spaces.Box)
        return (picture if bare else {"eye": picture, "speed": [200.0]}), 0.0, False, False, {}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16"])
@pytest.mark.parametrize("bare", [True, False])
def test_pictures_of_0_to_255_are_scaled_whatever_their_type(dtype: str, bare: bool) -> None:
    """Convolutions fed with hundreds, which learn nothing, since the picture is not of bytes."""
    name = EnvName(f"{__name__}:Film", {"dtype": dtype, "bare": bare})
    envs = VecEnv(spec_of(name), 1, EpisodeSeeds(0))
    for action in (0, 1):
        seen = envs.reset() if action == 0 else envs.observations
        eye = seen[0].reshape(-1)[-75:]
        assert np.allclose(eye * 255, np.arange(75) + 180 * action), eye
        assert bare or seen[0, 0] == 200
        envs.step(np.array([1]))
    envs.close()


def test_plain_boxes_pay_nothing() -> None:
    """CartPole through a wrapper, or read twice."""
    env: Any = make_env(EnvName("CartPole-v1"))
    spec = env.spec
    row = np.zeros((1, *spec.observation_shape), np.float32)
    env.bind(row, np.zeros(1, np.float32), np.zeros(1, bool), np.zeros(1, bool))
    assert spec.observation_kind == "vector" and not spec.leaves and not spec.masked
    assert env._step == env._env.step and type(env._env).__name__ == "CartPoleEnv"


def test_a_part_that_is_missing_is_named() -> None:
    """`KeyError: 'y'`, which does not say that it is the observation that lacks it."""
    reader = ObservationReader("e", spaces.Dict({"a": spaces.Dict({"b": spaces.Box(0, 1, (2,))})}), ())
    for value, missing in (({"c": 1}, "a"), ({"a": {}}, "b"), (np.zeros(2), "a")):
        with pytest.raises(ValueError, match=f"^an observation without '{missing}': its space has a.b$"):
            reader.write(np.zeros(2), value)


@pytest.mark.parametrize("space", [None, (2,)])
def test_an_observation_space_that_is_none_is_named(space: Any) -> None:
    """A traceback of an attribute that it has not."""
    with pytest.raises(UserError, match="^env=mine: its observation_space is a .*, not a space of Gymnasium's$"):
        ObservationReader("mine", space, ())
