"""Where the time goes: seconds by phase."""

import time
from types import TracebackType


class Timers:
    """`with timers("env"): ...` adds to the phase's seconds; phases are not nested."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._phase = ""
        self._began = 0.0

    def __call__(self, phase: str) -> "Timers":
        self._phase = phase
        return self

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + time.perf_counter() - self._began
