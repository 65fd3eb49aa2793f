"""The command `metta TOOL key=value ...`: finds the tool; a mistake is one line on stderr and an exit status."""

import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches

from metta.errors import CheckpointError
from metta.tools.cli.arguments import HELP, UsageError

TOOLS = {
    "train": "start a run, or go on with it where it stopped",
    "sim": "play episodes with a run's checkpoints and store the scores",
    "play": "watch an agent act",
    "replay": "make a recorded episode again, as a file people can open",
    "analyze": "compare runs: a table and a report",
    "runs": "list the runs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a tool; returns the exit status: 0, 1 (it failed), 2 (a user's mistake), 128 + a signal's number."""
    argv = sys.argv[1:] if argv is None else argv
    prog = " ".join(["metta", *argv[:1]]) if argv and argv[0] in TOOLS else "metta"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"{prog}: {one_line(str(message))}", file=sys.stderr)
            status = _run(argv)
        sys.stdout.flush()
        return status
    except (UsageError, CheckpointError, ValueError) as error:
        if isinstance(error, ValueError) and not raised_by_metta(error):
            raise
        print(f"{prog}: {one_line(str(error))}", file=sys.stderr)
        return 2
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
        raise UsageError(f"no tool {tool}: " + (f"did you mean {near[0]}?" if near else f"have {', '.join(TOOLS)}"))
    return int(importlib.import_module(f"metta.tools.{tool}").main(argv[1:]))


def raised_by_metta(error: ValueError) -> bool:
    """Whether metta's own code refused a value. One from numpy, or from a user's own agent, keeps its traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("metta.")


def usage() -> str:
    tools = "\n".join(f"  {name:<10}{summary}" for name, summary in TOOLS.items())
    return f"usage: metta TOOL key=value ...\n\n{tools}\n\n`metta TOOL --help` lists a tool's keys."


def one_line(text: str) -> str:
    """The text with line ends as spaces and other unprintable characters escaped."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


if __name__ == "__main__":
    sys.exit(main())
