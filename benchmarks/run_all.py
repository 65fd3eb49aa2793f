"""Runs every comparison of speed that needs no GPU, and writes benchmarks/results.md and README's table.

    make bench                                                             # all, in some 30 minutes
    PYTHONPATH=. .venv-bench/bin/python benchmarks/run_all.py --only eval_speed growth
    PYTHONPATH=. .venv-bench/bin/python benchmarks/run_all.py --table      # only writes results.md

Leave the machine alone meanwhile. A script that fails is named at the end, and its last results stay.
"""

import argparse
import subprocess
import sys
import time

from benchmarks.results import speed_table, write_results
from benchmarks.summary import DATA, HERE, write_readme

# script -> its arguments; chosen so that all take some 30 minutes on two cores.
SCRIPTS: dict[str, list[str]] = {
    "training_speed": ["--rounds", "2"],
    "checkpoint_speed": [],
    "eval_speed": [],
    "growth": [],
    "env_speed": ["3"],
    "eval_db": [],
}
PRINTS_ONLY = ("env_speed", "eval_db")  # what these print is kept


def run(name: str) -> bool:
    """Whether it went well."""
    print(f"\n== {name}", flush=True)
    began = time.perf_counter()
    command = [sys.executable, str(HERE / f"{name}.py"), *SCRIPTS[name]]
    keep = name in PRINTS_ONLY
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE if keep else None)
    if keep and done.returncode == 0:
        print(done.stdout, end="")
        (DATA / f"{name}.txt").write_text(done.stdout)
    print(f"== {name}: {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--table", action="store_true", help="measure nothing, write results.md")
    parser.add_argument("--notes", default="", help="a sentence on the conditions, for results.md")
    args = parser.parse_args()
    failed = [] if args.table else [name for name in args.only if not run(name)]
    write_results(args.notes)
    write_readme(speed_table())
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
