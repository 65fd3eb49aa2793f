"""The command `metta TOOL key=value ...`: finds the tool. A MettaError is one line on stderr and its exit status.

Any other error keeps its traceback: it is a fault of ours, or of the user's own code.
"""

import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches

from metta.errors import MettaError, UserError, one_line
from metta.tools.cli.arguments import HELP

TOOLS = {
    "train": "start a run, or go on with it where it stopped",
    "launch": "train in several ranks of this machine, by torchrun",
    "sim": "play episodes with a run's checkpoints and store the scores",
    "play": "watch an agent act",
    "replay": "make a recorded episode again, as a file people can open",
    "analyze": "compare runs: a table and a report",
    "runs": "list the runs",
    "pull": "bring runs from object storage",
    "push": "send runs to object storage",
    "scores": "show, export or copy scores",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a tool; returns the exit status: 0, a MettaError's (1: it failed, 2: a user's mistake), 128 + a signal's."""
    argv = sys.argv[1:] if argv is None else argv
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, as by `>&-`; the next file opened would get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (it stays open)
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr is: a letter that its encoding lacks is no error
        sys.stdout.reconfigure(errors="backslashreplace")
    prog = " ".join(["metta", *argv[:1]]) if argv and argv[0] in TOOLS else "metta"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"{prog}: {one_line(str(message))}", file=sys.stderr)
            status = _run(argv)
        sys.stdout.flush()
        return status
    except MettaError as error:
        print(f"{prog}: {one_line(error)}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # `metta runs | head`: whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # a disk that is full, a folder that may not be written
        print(f"{prog}: {one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in HELP:
        print(usage())
        return 0
    tool = argv[0]
    if tool not in TOOLS:
        near = get_close_matches(tool, TOOLS, n=1)
        raise UserError(f"no tool {tool}: " + (f"did you mean {near[0]}?" if near else f"have {', '.join(TOOLS)}"))
    return int(importlib.import_module(f"metta.tools.{tool}").main(argv[1:]))


def usage() -> str:
    tools = "\n".join(f"  {name:<10}{summary}" for name, summary in TOOLS.items())
    return f"usage: metta TOOL key=value ...\n\n{tools}\n\n`metta TOOL --help` lists a tool's keys."


if __name__ == "__main__":
    sys.exit(main())
