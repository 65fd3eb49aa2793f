"""A gymnasium.Env with Box observations and Discrete or Box actions, as an environment of one agent."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metta.envs.env_spec import EnvName, EnvSpec
from metta.errors import UserError


class GymnasiumEnv:
    """One Gymnasium environment. See `Env` for the methods.

    Continuous actions are clipped to the action space's bounds before the environment sees them. A step is terminated
    or truncated, never both: where an environment says both, terminated it is.
    """

    def __init__(self, made: gymnasium.Env, env: EnvName, max_steps: int | None = None):
        """made: the environment called `env`; max_steps: truncate its episodes after so many steps."""
        self._env, self._max_steps = made, max_steps
        name = env.short_name
        observation_space, action_space = self._env.observation_space, self._env.action_space
        kind, shape, dtype = describe_observations(name, observation_space)
        actions = describe_actions(name, action_space)
        self._shape = observation_space.shape
        self.spec = EnvSpec(env, 1, kind, shape, dtype, **actions)
        self._convert = action_converter(action_space)
        own_space = self._env.unwrapped.action_space
        if isinstance(own_space, spaces.Discrete):
            # The agent draws nothing else, and to check each action is a fifth of CartPole's step.
            vars(own_space)["contains"] = lambda action: True
        self._step = self._env.step
        # MinAtar keeps its sticky action from one episode to the next; an episode must depend on its seed alone.
        game = getattr(self._env.unwrapped, "game", None) if "MinAtar/" in name else None
        self._sticky_game = game if hasattr(game, "last_action") else None
        self._length = 0

    def bind(
        self, observations: np.ndarray, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> None:
        self._row = observations[0].reshape(self._shape)
        assert np.shares_memory(self._row, observations)
        self._rewards, self._terminated, self._truncated = rewards, terminated, truncated

    def reset(self, seed: int) -> None:
        if self._sticky_game is not None:
            self._sticky_game.last_action = 0
        self._row[...] = self._env.reset(seed=seed)[0]
        self._length = 0

    def step(self, actions: np.ndarray) -> None:
        observation, reward, terminated, truncated, _ = self._step(self._convert(actions))
        self._length += 1
        self._row[...] = observation
        self._rewards[0] = reward
        self._terminated[0] = terminated
        self._truncated[0] = not terminated and (truncated or self._length == self._max_steps)

    def metrics(self) -> dict[str, float]:
        return {}

    @property
    def metadata(self) -> dict[str, Any]:
        return self._env.metadata

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()


def describe_observations(name: str, space: spaces.Space) -> tuple[str, tuple[int, ...], str]:
    """Return EnvSpec's kind, shape and dtype: 3-D arrays and 2-D bytes are images, the rest flat vectors."""
    if not isinstance(space, spaces.Box) or len(space.shape) > 3 or 0 in space.shape:
        raise UserError(f"env={name} has observations that no agent reads: {space}; wanted a Box of 0 to 3 dimensions")
    dtype = space.dtype.name if space.dtype.name in ("bool", "uint8") else "float32"
    if len(space.shape) == 3:
        return "image", space.shape, dtype
    if len(space.shape) == 2 and dtype == "uint8":
        return "image", (1, *space.shape), dtype
    return "vector", (int(np.prod(space.shape)),), dtype


def describe_actions(name: str, space: spaces.Space) -> dict[str, Any]:
    """Return EnvSpec's fields about actions."""
    if isinstance(space, spaces.Discrete):
        return {"num_actions": int(space.n)}
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and 0 not in space.shape:
        low, high = (tuple(float(x) for x in bound.flat) for bound in (space.low, space.high))
        return {"num_actions": None, "action_low": low, "action_high": high, "action_shape": space.shape or (1,)}
    raise UserError(f"env={name} has actions that no agent produces: {space}; wanted Discrete or a Box of floats")


def action_converter(space: spaces.Space) -> Callable[[np.ndarray], Any]:
    """Make the function from a row of actions `[1, *action_shape]` to what the environment's step takes."""
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return lambda actions: actions.item() + start
    assert isinstance(space, spaces.Box)
    low, high, shape, dtype = space.low, space.high, space.shape, space.dtype

    def convert(actions: np.ndarray) -> np.ndarray:
        action = actions.reshape(shape).astype(dtype)
        np.maximum(action, low, out=action)
        return np.minimum(action, high, out=action)

    return convert
