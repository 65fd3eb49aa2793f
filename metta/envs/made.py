"""What a source of environments made, and what its adapters hand on to it alike."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from metta.envs.env_spec import EnvName, EnvSpec
from metta.envs.spaces import ObservationReader
from metta.errors import UserError, enumeration, say
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
        return self._env.metadata

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
        say_unclosed(env.short_name, said_where(error))


@cache
def say_unclosed(name: str, error: str) -> None:
    say(f"metta: env={name}: close failed: {error}")
