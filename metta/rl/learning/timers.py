"""Where the time goes: seconds by phase."""

import time


class Timers:
    """`with timers("env"): ...` adds to the phase's seconds; a phase inside another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._phase = ""
        self._open: list[tuple[str, float]] = []

    def __call__(self, phase: str) -> "Timers":
        self._phase = phase
        return self

    def __enter__(self) -> None:
        self._open.append((self._phase, time.perf_counter()))

    def __exit__(self, *_: object) -> None:
        phase, began = self._open.pop()
        elapsed = time.perf_counter() - began
        self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed
        if self._open:
            around = self._open[-1][0]
            self.seconds[around] = self.seconds.get(around, 0.0) - elapsed
