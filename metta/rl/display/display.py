"""All that training shows: the progress on stderr and the curves in the run folder. It never costs training."""

from collections.abc import Callable, Mapping
from typing import Any

from metta.errors import one_line, say
from metta.rl.display.curves import CurveWriter
from metta.rl.display.panel import make_progress
from metta.rl.train_config import RunConfig
from metta.run_folder import RunFolder


class Display:
    """Passes on what happens to the progress and the curves. What fails in one is said once, and it is left out."""

    def __init__(self, config: RunConfig, run: RunFolder, resumed_at: int, last_evaluation: Callable[[], str]):
        self._run, self._resumed_at = run, resumed_at
        self.progress = make_progress(config, resumed_at, last_evaluation)
        self._curves: CurveWriter | None = None
        self._failed: set[str] = set()

    def start(self) -> None:
        self._attempt("progress", self.progress.start)
        self._curves = self._attempt("curves", CurveWriter, self._run, self._resumed_at)

    def update(self, epoch: int, agent_steps: int, scalars: dict[str, float], seconds: Mapping[str, float]) -> None:
        """Show an epoch's scalars; seconds: by phase, since the start."""
        if self._curves is not None:
            self._attempt("curves", self._curves.add, scalars, agent_steps)
        self._attempt("progress", self.progress.update, epoch, agent_steps, scalars, seconds)

    def saved(self, epoch: int) -> None:
        self._attempt("progress", self.progress.saved, epoch)

    def stop(self, how: str) -> None:
        """Say why the last epoch was the last."""
        self._attempt("progress", self.progress.stop, how)

    def fail(self, why: str) -> None:
        self._attempt("progress", self.progress.fail, why)

    def _attempt(self, what: str, show: Callable[..., Any], *arguments: Any) -> Any:
        if what in self._failed:
            return None
        try:
            return show(*arguments)
        except Exception as error:  # noqa: BLE001 (a terminal that is gone, a full disk, what rich or TensorBoard raise)
            self._failed.add(what)
            say(f"run={self._run.name} shows no {what} from now on, and trains on: {one_line(error)}")
