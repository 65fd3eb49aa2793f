"""A gymnasium.Env as an environment of one agent."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metta.envs.env_spec import EnvName
from metta.envs.made import Adapter, put_reward
from metta.envs.spaces import LATE_MASK, MASK, put
from metta.errors import UserError


class GymnasiumEnv(Adapter):
    """One Gymnasium environment. See `Env` for the methods.

    Continuous actions are stretched, and clipped, to the action space's bounds. A step is terminated or truncated,
    never both: where an environment says both, terminated it is.
    """

    def __init__(self, made: gymnasium.Env, env: EnvName, max_steps: int | None = None):
        """made: the environment called `env`; max_steps: truncate its episodes after so many steps."""
        for kind in ("observation_space", "action_space"):
            if not hasattr(made, kind):
                raise UserError(f"env={env.short_name} has no {kind}")
        self._env, self._max_steps = made, max_steps
        self._read_spaces(env, made.observation_space, made.action_space)
        inner = made.unwrapped
        if type(inner).__module__.startswith("gymnasium.") and isinstance(inner.action_space, spaces.Discrete):
            # The agent draws nothing else, and to check each action is a fifth of CartPole's step.
            vars(inner.action_space)["contains"] = lambda action: True
        # MinAtar keeps its sticky action from one episode to the next; an episode must depend on its seed alone.
        game = getattr(self._env.unwrapped, "game", None) if "MinAtar/" in env.name else None
        self._sticky_game = game if hasattr(game, "last_action") else None
        self._length = 0

    def _infos_mask(self) -> bool:
        return self._env.has_wrapper_attr("action_masks") or MASK in self._begin(0)[1]

    def bind(
        self, observations: np.ndarray, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> None:
        plain = self._reader.fields(masked=False)
        same = plain["observation_kind"] != "composite" and observations.shape[1:] == plain["observation_shape"]
        self._as_it_is = same and not self._reader.scaled
        self._row = observations[0].reshape(self._env.observation_space.shape if self._as_it_is else -1)
        self._takes_floats = observations.dtype.kind == "f"
        assert np.shares_memory(self._row, observations)
        self._masks = self._env.get_wrapper_attr("action_masks") if self._env.has_wrapper_attr("action_masks") else None
        self._step = self._env.step
        self._rewards, self._terminated, self._truncated = rewards, terminated, truncated

    def reset(self, seed: int) -> None:
        if self._sticky_game is not None:
            self._sticky_game.last_action = 0
        self._write(*self._begin(seed))
        self._length = 0

    def step(self, actions: np.ndarray) -> None:
        outcome = self._step(self._convert(actions))
        try:
            observation, reward, terminated, truncated, info = outcome
        except (TypeError, ValueError):
            raise ValueError("step must return (observation, reward, terminated, truncated, info)") from None
        self._length += 1
        self._write(observation, info)
        put_reward(self._rewards, 0, reward)
        self._terminated[0] = terminated
        self._truncated[0] = not terminated and (truncated or self._length == self._max_steps)

    def _write(self, observation: Any, info: dict[str, Any]) -> None:
        """Write the row of an observation, with the mask of what may be done next where there is room for one."""
        if self._as_it_is:
            if MASK in info and self._reader.num_choices:
                raise ValueError(LATE_MASK)
            fits = getattr(observation, "size", None) == self._row.size
            if fits and (self._takes_floats or observation.dtype == self._row.dtype):
                self._row[...] = observation
            else:  # a list, or what numpy would repeat, round or wrap around
                put(self._row.reshape(-1), self._reader.space, observation)
            return
        if self._reader.gives_mask:
            mask = observation[MASK]
        else:
            mask = info.get(MASK) if self._masks is None else self._masks()
        self._reader.write(self._row, observation, mask)
