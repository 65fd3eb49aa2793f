"""`metta train` that writes what it is doing, one byte for each thread, into a file that outlives it.

    python tests/helpers/kill_victim.py PHASE_FILE run=... env=...

Byte 0: the training loop's phase; byte 1: whether the saving thread is at work. 0 is "starting".
"""

import mmap
import sys
from pathlib import Path
from typing import Any

PHASES = ("starting", "copy", "forward", "env", "learn", "wait", "exchange", "on_epoch", "save")


def main(phase_file: Path, arguments: list[str]) -> int:
    from metta.rl.learning.timers import Timers
    from metta.rl.saving.checkpoint_saver import CheckpointSaver
    from metta.tools.main import main as metta

    with open(phase_file, "r+b") as file:
        phases = mmap.mmap(file.fileno(), 2)
    enter, write = Timers.__call__, CheckpointSaver._write

    def noted_phase(self: Timers, phase: str) -> Timers:
        phases[0] = PHASES.index(phase)
        return enter(self, phase)

    def noted_write(self: CheckpointSaver, *args: Any) -> None:
        phases[1] = 1
        write(self, *args)
        phases[1] = 0

    Timers.__call__ = noted_phase  # type: ignore[method-assign]
    CheckpointSaver._write = noted_write  # type: ignore[method-assign,assignment]
    return metta(["train", *arguments])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
