"""What a source of environments made, and what its adapters hand on to it alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Made:
    what: Any
    max_steps: int | None = None  # truncate its episodes after so many steps
    of_seed: Callable[[int], Any] | None = None  # makes another for the episode of a seed, where that is asked for


class Adapter:
    """Passes on to `_env` what every package's environments have, and has no statistics of its own. See `Env`."""

    _env: Any

    def metrics(self) -> dict[str, float]:
        return {}

    @property
    def metadata(self) -> dict[str, Any]:
        return self._env.metadata

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()
