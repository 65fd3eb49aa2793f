"""The evaluation of each checkpoint in a process beside training: `metta sim watch=true`, of the lowest priority.

It meets training in the run folder alone, and never costs a run more than time of the processor: where it fails that is
said once, and training goes on.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO

from metta.errors import one_line, say
from metta.rl.train_config import RunConfig

# It ends when its stdin does: with the trainer, however that ends.
START = (
    "import os, sys, threading; os.nice(19); at = sys.argv.index('--'); argv = sys.argv[1:at]; "
    "hasattr(os, 'SCHED_IDLE') and os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)); "
    "sys.path = sys.argv[at + 1:]; "
    "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start(); "
    "from metta.tools.main import main; sys.exit(main(argv))"
)
LOOK_S = 0.1  # from one look for the last score to the next


class EvaluationBeside:
    """Starts with the training and scores each checkpoint over config.evaluate episodes; nothing where that is None."""

    def __init__(self, config: RunConfig, is_new: bool):
        """is_new: no checkpoint is older than this process, so all are to be scored."""
        self.config, self._is_new = config, is_new
        self._process: subprocess.Popen[str] | None = None
        self._older = 0  # bytes of what it has said that may be of files which were there before the last save

    def start(self) -> None:
        config = self.config
        if config.evaluate is None:
            return
        words = ["sim", f"run={config.run}", "watch=true", f"epoch={'all' if self._is_new else 'latest'}"]
        words += [f"episodes={config.evaluate}", f"train_dir={config.train_dir}"]
        words += [] if config.eval_db is None else [f"eval_db={config.eval_db}"]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        try:
            # Its own process group: Ctrl-C at the terminal is the trainer's to answer.
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, *words, "--", *sys.path],
                stdin=subprocess.PIPE,
                stdout=self._said,
                stderr=self._said,
                text=True,
                process_group=0,
            )
        except OSError as error:
            say(f"run={config.run} is not evaluated, and trains on: {one_line(error)}")

    def check(self) -> None:
        """Before each save: say, once, where it has failed, and note how far it is."""
        self._check_alive()
        if self._process is not None:
            self._older = os.fstat(self._said.fileno()).st_size

    def _check_alive(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            lines = lines_of(self._said)
            why = lines[-1] if lines else f"exit status {self._process.returncode}"
            say(f"run={self.config.run} is evaluated no more, and trains on: {one_line(why)}")
            self.close()

    def finish(self, epoch: int, hurried: Callable[[], bool]) -> None:
        """Wait for the score of the last checkpoint, unless somebody is in a hurry, print it, and end."""
        self._check_alive()
        if self._process is None or hurried():
            self.close()
            return
        begins = f"run={self.config.run} epoch={epoch} "
        if not lines_of(self._said, begins, self._older):
            say(f"run={self.config.run} waits for the score of epoch {epoch}; Ctrl-C leaves without it")
        while self._process is not None and not hurried():
            if lines := lines_of(self._said, begins, self._older):
                print(lines[-1], flush=True)
                break
            time.sleep(LOOK_S)
            self._check_alive()
        self.close()

    def close(self) -> None:
        """End it, whatever it is at."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.kill()  # for of lowest priority it may take long to notice
            self._process.wait()
            self._process = None
            self._said.close()


def lines_of(file: IO[bytes], begins: str = "", after: int = 0) -> list[str]:
    """The lines so far of a file that another process writes, whose position it shares and this must not move.

    after: the bytes of it to leave out.
    """
    text = os.pread(file.fileno(), os.fstat(file.fileno()).st_size - after, after).decode(errors="replace")
    return [line for line in text.splitlines() if line.startswith(begins)]
