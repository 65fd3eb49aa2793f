"""What a source of environments made, and what its adapters hand on to it alike."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces

from metta.envs.env_spec import EnvName, EnvSpec
from metta.envs.spaces import ObservationReader, action_converter, choices_of, describe_actions
from metta.errors import UserError, enumeration, say_once
from metta.user_code import said_where


@dataclass(frozen=True)
class Made:
    what: Any
    max_steps: int | None = None  # truncate its episodes after so many steps
    of_seed: Callable[[int], Any] | None = None  # makes another for the episode of a seed, where that is asked for


class Adapter:
    """Passes on to `_env` what every package's environments have, and has no statistics of its own. See `Env`."""

    _env: Any
    _name: EnvName
    _reader: ObservationReader
    _actions: dict[str, Any]  # of EnvSpec, those about actions
    names: Sequence[Any] = ("",)  # of the agents
    agents_vary = False

    def _read_spaces(self, env: EnvName, observations: spaces.Space, actions: spaces.Space) -> None:
        self._name, self._actions = env, describe_actions(env.short_name, actions)
        self._reader = ObservationReader(env.short_name, observations, choices_of(self._actions))
        self._convert = action_converter(actions)

    @cached_property
    def spec(self) -> EnvSpec:
        """What its spaces say, and the first infos of an episode: whether there are action masks."""
        if texts := ", ".join(self._reader.texts):
            say_once(f"metta: env={self._name.short_name}: text is left out of the observations: {texts}")
        masked = self._reader.gives_mask
        if self._reader.num_choices and not masked:
            with suppress(Exception, SystemExit):  # raised again, and said, in the first episode
                masked = self._infos_mask()
        fields = self._reader.fields(masked, self.agents_vary)
        return EnvSpec(self._name, len(self.names), **fields, **self._actions)

    def _infos_mask(self) -> bool:
        """Whether there are masks beside the observations."""
        raise NotImplementedError

    def require_like(self, spec: EnvSpec) -> None:
        """UserError unless its spaces are those of `spec`, which another environment of this name had."""
        own = self._reader.fields(spec.masked, spec.agents_vary) | self._actions
        differing = [name.replace("_", " ") for name, value in own.items() if value != getattr(spec, name)]
        if differing:
            each = "each that is made must have the same spaces"
            raise UserError(f"env={self._name.short_name}: {each}, and another has another {enumeration(differing)}")

    def metrics(self) -> dict[str, float]:
        return {}

    @property
    def metadata(self) -> dict[str, Any]:
        return getattr(self._env, "metadata", None) or {}

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        close_env(self._env, self._name)

    def _begin(self, seed: int) -> tuple[Any, dict[Any, Any]]:
        """Reset the environment; returns the first observation and info."""
        began = self._env.reset(seed=seed)
        if not (isinstance(began, tuple | list) and len(began) == 2 and isinstance(began[1], dict)):
            raise ValueError("reset must return (observation, info), info a dict")
        return began[0], began[1]


def put_reward(rewards: np.ndarray, index: int, reward: Any) -> None:
    """Write an agent's reward, also one in an array. ValueError unless it is the only number there."""
    if reward is None:
        raise ValueError("None for a reward")
    try:
        rewards[index] = reward
    except ValueError:
        numbers = np.asarray(reward)
        if numbers.size != 1:
            raise ValueError(f"a reward of shape {numbers.shape}, not a number") from None
        rewards[index] = numbers.item()


def close_env(made: Any, env: EnvName) -> None:
    """Close an environment; where that fails, say so, for no work is lost by it."""
    try:
        made.close()
    except (Exception, SystemExit) as error:  # noqa: BLE001 (said)
        say_once(f"metta: env={env.short_name}: close failed: {said_where(error)}")
