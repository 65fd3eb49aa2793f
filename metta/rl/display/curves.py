"""Training curves: TensorBoard scalars over agent steps, in the run folder."""

import math

from torch.utils.tensorboard import SummaryWriter

from metta.run_folder import RunFolder


class CurveWriter(SummaryWriter):
    """Appends to the run's curves from agent step `resumed_at` on.

    What a killed process logged after the checkpoint it is resumed from is purged (TensorBoard's `purge_step`), and
    `flush` comes before each checkpoint, so the curve of a resumed run has neither overlap nor gap.
    """

    def __init__(self, run: RunFolder, resumed_at: int):
        suffix = f".part{max((part for part, _ in run.curves), default=0) + 1}"
        super().__init__(str(run.path), purge_step=resumed_at + 1, filename_suffix=suffix)

    def add(self, scalars: dict[str, float], agent_steps: int) -> None:
        for name, value in scalars.items():
            if math.isfinite(value):
                self.add_scalar(name, value, agent_steps)
