"""PettingZooEnv: who is there, what each gets, and when it is over."""

from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from metta.envs.env_spec import EnvName
from metta.envs.make_env import spec_of
from metta.envs.vec_env import DealtSeeds, EpisodeSeeds, VecEnv
from metta.errors import EnvError, UserError
from tests.helpers.parallel_envs import Lingers, Shift, Table, Turns, Unlike


def named(kind: type) -> EnvName:
    return EnvName(f"{kind.__module__}:{kind.__name__}")


def allowed(spec: Any, observations: np.ndarray) -> np.ndarray:
    """The first action that is allowed of each row, of each choice."""
    parts = np.split(spec.mask_in(observations), np.cumsum(spec.choices)[:-1], 1)
    return np.stack([part.argmax(1) for part in parts], 1).reshape(-1, *spec.action_shape)


@pytest.mark.parametrize("kind", [Shift, Table, Lingers])
def test_rows_follow_their_agents(kind: type) -> None:
    """An agent's step given to another, a death taken for a time-out, rewards of who is not there, no end."""
    spec = spec_of(named(kind))
    assert (spec.num_agents, spec.agents_vary, spec.masked) == (5, True, True)
    envs = VecEnv(spec, 1, DealtSeeds((0,)))
    envs.reset()
    present, rewards, terminated, truncated, episodes = [spec.present_in(envs.observations).copy()], [], [], [], []
    for _ in range(7):
        episodes += envs.step(allowed(spec, envs.observations))
        present.append(spec.present_in(envs.observations).copy())
        rewards.append(envs.rewards > 0)
        terminated.append(envs.terminated.copy())
        truncated.append(envs.truncated.copy())
        if envs.truncated[1]:  # its last observation is where the critic looks for it
            assert (envs.final_observations[1] == envs.observations[1]).all()
    letters = ["".join(n for n, here in zip("abcde", row, strict=True) if here) for row in present]
    assert letters == ["abc", "abc", "abc", "abcd", "bcd", "bcd", "cd", ""]
    acted = np.array(present[:-1])
    assert (np.array(rewards) == acted).all()
    assert (np.array(truncated)[:, 1] == [0, 0, 0, 0, 0, 1, 0]).all() and np.array(truncated).sum() == 1
    assert (
        np.array(terminated) == ~acted | np.array([[r == 6 or (r == 3 and i == 0) for i in range(5)] for r in range(7)])
    ).all()
    (episode,) = episodes
    assert episode.took_part.tolist() == [True] * 4 + [False] and episode.length == 7
    assert episode.mean_return == episode.returns[:4].mean() and not envs.active.any()


def test_who_took_part_is_remembered(tmp_path: Any) -> None:
    """A resume in the middle of an episode that forgets who has left already: another mean return."""
    spec = spec_of(named(Shift))
    straight, resumed = (VecEnv(spec, 2, EpisodeSeeds(3)) for _ in range(2))
    straight.reset()
    for _ in range(5):
        straight.step(allowed(spec, straight.observations))
    assert resumed.load_state_dict(straight.state_dict()) == []
    ended = []
    for envs in (straight, resumed):
        seen = []
        for _ in range(20):
            seen += [(e.returns.tolist(), e.took_part.tolist()) for e in envs.step(allowed(spec, envs.observations))]
        ended.append(seen)
    assert ended[0] == ended[1] and len(ended[0]) >= 2


@pytest.mark.parametrize(
    ("method", "what", "text"),
    [
        ("reset", {"side_effect": SystemExit(0)}, "SystemExit: 0 ("),
        ("reset", {"return_value": ("a", "b")}, "ValueError: reset must return (observation, info), info a dict"),
        (
            "step",
            {"return_value": ({}, {"a": np.ones(2)}, {}, {}, {})},
            "ValueError: a reward of shape (2,), not a number",
        ),
    ],
)
def test_what_a_game_must_not_do_is_named(monkeypatch: pytest.MonkeyPatch, method: str, what: Any, text: str) -> None:
    """A traceback, or an end without a word, before the first episode begins."""
    monkeypatch.setattr(Shift, method, MagicMock(**what))
    envs = VecEnv(spec_of(EnvName.of(lambda: Shift())), 1, DealtSeeds((0,)))
    with pytest.raises(EnvError) as caught:
        envs.reset()
        envs.step(np.zeros(5, int))
    assert f"failed in the episode of seed 0: {text}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            Unlike,
            "has agents of different kinds, which one policy cannot play: of observation spaces a has Box(-1.0, 1",
        ),
        (Turns, "cannot be trained: its agents take turns, and PettingZoo's aec_to_parallel cannot"),
    ],
)
def test_what_cannot_be_trained_is_one_line(kind: type, text: str) -> None:
    """A shape error from within the network, or an assertion of PettingZoo's."""
    with pytest.raises(UserError) as caught:
        spec_of(named(kind))
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"env=parallel_envs.py:{kind.__name__} ")
