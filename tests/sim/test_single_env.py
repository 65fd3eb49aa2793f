"""What `play` and `replay` show, and what they refuse to."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from metta.envs.env_spec import EnvName
from metta.envs.make_env import make_env
from metta.errors import EnvError, UserError
from metta.sim.replay.films import check_pictures, frames_per_second
from metta.sim.single_env import SingleEnv


class Faulty(gymnasium.Env):
    """Does one thing wrong, by its setting."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (it is Gymnasium's)
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault: str, render_mode: str | None = None):
        self.fault, self.render_mode = fault, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.fault == "reset":
            raise ValueError("boom")
        return np.zeros(1, np.float32), {"action_mask": np.ones(2)} if self.fault == "mask" else {}

    def step(self, action: int) -> Any:
        if self.fault == "step":
            raise SystemExit("boom")
        seen, reward = (np.array([float(self.fault == value) and float(value)], np.float32) for value in ("nan", "inf"))
        return seen, reward, False, False, {"action_mask": np.zeros(2)} if self.fault == "mask" else {}

    def render(self) -> Any:
        if self.fault == "render":
            raise ValueError("boom")
        return None if self.fault == "None" else np.zeros([int(size) for size in self.fault.split("x")], np.uint8)


FAULTS = {
    "reset": r"failed in the episode of seed 3: ValueError: boom \(test_single_env.py:\d+\)",
    "step": r"failed in the episode of seed 3: SystemExit: boom \(test_single_env.py:\d+\)",
    "render": r"failed in the episode of seed 3: ValueError: boom \(test_single_env.py:\d+\)",
    "nan": "gave nan in an observation at step 1 of the episode of seed 3",
    "inf": "gave inf in a reward at step 1 of the episode of seed 3",
    "mask": "gave an action mask that forbids every action at step 1 of the episode of seed 3",
    "None": r"render gave NoneType of shape \(\), not a picture \[height, width, 3\]",
    "8x8x1": r"render gave ndarray of shape \(8, 8, 1\), not a picture \[height, width, 3\]",
    "0x8x3": r"render gave ndarray of shape \(0, 8, 3\), not a picture \[height, width, 3\]",
    "2x8x8x3": r"render gave ndarray of shape \(2, 8, 8, 3\), not a picture \[height, width, 3\]",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_an_environment_does_wrong_is_one_line(fault: str) -> None:
    """A traceback of play and replay, or an episode played on, where sim and train refuse in a line."""
    single = SingleEnv(make_env(EnvName.of(Faulty, {"fault": fault}), "rgb_array"))
    with pytest.raises(EnvError, match=rf"^env=test_single_env.py:Faulty:? {FAULTS[fault]}$"):
        single.reset(3)
        single.step(np.zeros(1, int))
        single.picture()


@pytest.mark.parametrize("metadata", [None, {"render_modes": None}, {"render_fps": "fast"}, {"render_fps": -1}])
def test_metadata_that_say_nothing_are_no_traceback(metadata: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`metadata = None` and `render_fps = "fast"`: AttributeError, ValueError, a GIF of negative speed."""
    monkeypatch.setattr(Faulty, "metadata", metadata)
    env = make_env(EnvName.of(Faulty, {"fault": "8x8x3"}), "rgb_array")
    if metadata is None:
        check_pictures(env)
        assert frames_per_second(env) == 30
        return
    with pytest.raises(UserError, match="has render_fps=.* not a number|draws no pictures: .* render_mode none"):
        check_pictures(env)
        frames_per_second(env)
