"""Seconds from the start of the process until a policy reaches a target: metta beside its peers, on this machine.

    git clone https://github.com/vwxyzjn/cleanrl benchmarks/work/cleanrl
    git -C benchmarks/work/cleanrl checkout fe8d8a03c41a7ef5b523e2e354bd01c363e786bb
    PYTHONPATH=. .venv-bench/bin/python benchmarks/time_to_reward.py [--env CartPole-v1] [--seeds 3]
    PYTHONPATH=. .venv-bench/bin/python benchmarks/time_to_reward.py --table     # trains nothing, writes the table

metta is trained without a flag (on the ladder's number of steps), Stable-Baselines3 with the settings of RL Baselines3
Zoo (sb3_learning.py; arena: sb3_mettagrid.py), CleanRL's scripts with their own. reach_target.py says what is timed.
Each run is a process, one at a time, the libraries taking turns; each may use every core and no GPU. metta decides its
processes and threads by itself; its peers have --threads torch threads. What benchmarks/data/time_to_reward.jsonl
holds is not run again. Writes benchmarks/time_to_reward.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import cleanrl
from benchmarks.reach_target import EPISODES, GOALS, LIBRARIES, budget, key, plays
from benchmarks.summary import DATA, HERE, WORK, table

RESULTS = DATA / "time_to_reward.jsonl"
LOG = WORK / "time_to_reward.log"  # what the runs print
NAMES = {"metta": "metta", "sb3": "Stable-Baselines3", "cleanrl": "CleanRL"}
Runs = list[dict[str, Any]]  # lines of RESULTS, of one library on one environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="*", choices=GOALS, default=list(GOALS))
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to this")
    parser.add_argument("--libraries", nargs="*", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--threads", type=int, default=1, help="torch threads of the peers")
    parser.add_argument("--cleanrl", type=Path, default=cleanrl.CLONE, help="CleanRL's clone")
    parser.add_argument("--table", action="store_true", help="train nothing, write the table")
    args = parser.parse_args()
    if not args.table:
        if "cleanrl" in args.libraries:
            require_cleanrl(args.cleanrl)
        for library, env, seed in missing(args.libraries, args.env, args.seeds):
            run(library, env, seed, args.threads, args.cleanrl)
    (HERE / "time_to_reward.md").write_text(page())
    print(page())


def require_cleanrl(clone: Path) -> None:
    """Exit unless the clone is there, at the commit that is compared with."""
    if not (clone / ".git").exists():
        sys.exit(f"{clone} is no clone of CleanRL: --help says how to make it")
    command = ["git", "-C", str(clone), "rev-parse", "HEAD"]
    commit = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    if commit != cleanrl.COMMIT:
        sys.exit(f"{clone} is at {commit}, wanted {cleanrl.COMMIT}")


def missing(libraries: Sequence[str], envs: Sequence[str], seeds: int) -> list[tuple[str, str, int]]:
    """The runs that the results lack, the libraries one after the other for each environment and seed."""
    recorded = lines()
    wanted = [(library, env, seed) for env in envs for seed in range(seeds) for library in libraries]
    return [
        (library, env, seed)
        for library, env, seed in wanted
        if plays(library, env)
        and not any(key(library, env, seed, budget(library, env)).items() <= line.items() for line in recorded)
    ]


def run(library: str, env: str, seed: int, threads: int, clone: Path) -> None:
    """Train in a process of its own, which appends to the results."""
    DATA.mkdir(exist_ok=True)
    LOG.parent.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "CUDA_VISIBLE_DEVICES": ""}
    if library != "metta":
        environment["OMP_NUM_THREADS"] = str(threads)
    script = [str(HERE / "reach_target.py"), library, env, f"--seed={seed}", f"--out={RESULTS.resolve()}"]
    print(f"{env} seed {seed}: {NAMES[library]}", end=" ", flush=True)
    with LOG.open("a") as log:
        print(f"== {env} seed {seed}: {NAMES[library]}", file=log, flush=True)
        command = [sys.executable, *script, f"--cleanrl={clone.resolve()}", f"--started={time.monotonic()}"]
        if subprocess.run(command, check=False, env=environment, stdout=log, stderr=log).returncode:
            sys.exit(f"failed: {LOG} says why")
    print(shown(lines()[-1]), flush=True)


def lines() -> Runs:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def runs_of(env: str) -> dict[str, Runs]:
    """Each library's runs of this environment as it is configured today, the slowest last; none where it has none."""
    found: dict[str, Runs] = {}
    for library in LIBRARIES:
        wanted = {name: value for name, value in key(library, env, 0, budget(library, env)).items() if name != "seed"}
        runs = [line for line in lines() if wanted.items() <= line.items()]
        if runs:
            found[library] = sorted(runs, key=slowness)
    return found


def slowness(run: dict[str, Any]) -> tuple[bool, float]:
    """What orders runs: one that never reached the target is slower than any that did."""
    return not run["reached"], run["seconds"]


def middle(runs: Runs) -> dict[str, Any]:
    """The median run (of an even number the slower one)."""
    return runs[len(runs) // 2]


def shown(run: dict[str, Any]) -> str:
    """Its seconds; `>` where the target was not reached in them."""
    return f"{'' if run['reached'] else '>'}{run['seconds']:,.1f}"


def page() -> str:
    measured = {env: runs for env in GOALS if (runs := runs_of(env))}
    head = ["environment", "target", *NAMES.values(), "best peer / metta", "without start-up"]
    parts = ["environment", "library", "reached", "start-up, s", "after it, s", "agent steps", "of", "steps/s"]
    text = [
        "# Time to reward",
        "",
        "Made by `benchmarks/time_to_reward.py`: seconds from the start of the process until a policy's mean return",
        f"over {EPISODES} episodes of held-out seeds reaches the target, median [least, most] over seeds. Evaluations",
        "stop the clock. `>`: the target was not reached in the run's steps, which took so long. CleanRL has no script",
        "for MinAtar and MettaGrid.",
        "",
        table(head, [summary(env, runs) for env, runs in measured.items()]),
        "",
        "The parts of each median run. Start-up is what comes before the first step of training (imports,",
        "environments, networks); what comes after it is agent steps divided by steps a second. `of`: the steps after",
        "which training ends, over which the learning rate is annealed.",
        "",
        table(parts, [row for env, runs in measured.items() for row in details(env, runs)]),
        "",
        *settings(),
        "",
        *conditions([run for runs in measured.values() for each in runs.values() for run in each]),
    ]
    return "\n".join([*text, ""])


def summary(env: str, runs: dict[str, Runs]) -> list[str]:
    """The row of an environment: seconds of each library, and the ratios of medians."""
    cells = [
        f"{shown(middle(each))} [{shown(each[0])}, {shown(each[-1])}]" if (each := runs.get(library)) else "-"
        for library in LIBRARIES
    ]
    return [env, f"{GOALS[env].target:,g}", *cells, *ratios(runs)]


def ratios(runs: dict[str, Runs]) -> tuple[str, str]:
    """How many times as long the best peer takes by medians, with and without start-up.

    `>` where it never reached the target.
    """
    peers = [middle(each) for library, each in runs.items() if library != "metta"]
    if "metta" not in runs or not peers or not middle(runs["metta"])["reached"]:
        return "-", "-"
    ours, best = middle(runs["metta"]), min(peers, key=slowness)
    bound = "" if best["reached"] else ">"
    return f"{bound}{best['seconds'] / ours['seconds']:.1f}", f"{bound}{after(best) / after(ours):.1f}"


def after(run: dict[str, Any]) -> float:
    """Seconds of training, without start-up."""
    return run["seconds"] - run["startup_seconds"]


def details(env: str, runs: dict[str, Runs]) -> list[list[str]]:
    """A row for each library: what the seconds of its median run are made of."""
    rows = []
    for library, each in runs.items():
        run, reached = middle(each), f"{sum(run['reached'] for run in each)} of {len(each)}"
        parts = [f"{run['startup_seconds']:.1f}", f"{after(run):,.1f}", f"{run['steps']:,}", f"{run['asked_steps']:,}"]
        rows.append([env, NAMES[library], reached, *parts, f"{run['steps'] / after(run):,.0f}"])
    return rows


def settings() -> list[str]:
    """What the libraries were trained with, as lines of text."""
    every = ", ".join(f"{goal.every:,} on {env}" for env, goal in GOALS.items())
    return [
        "metta: the defaults. Stable-Baselines3: RL Baselines3 Zoo's settings as `sb3_learning.py` has them (MinAtar:",
        "the zoo's for Atari with the network of MinAtar's paper; arena: `sb3_mettagrid.py`'s, for the zoo has none).",
        f"CleanRL: `ppo.py` and `ppo_continuous_action.py` of commit {cleanrl.COMMIT[:7]} with their own. On",
        "CartPole-v1 each has the steps that its maintainers chose, elsewhere those of `ladder.py`. Agent steps from",
        f"one evaluation to the next: {every}.",
    ]


def conditions(runs: Runs) -> list[str]:
    """The machine, the threads and the versions, all that the runs have seen of them, as a list."""
    noted: dict[str, set[str]] = {}
    for run in runs:
        seen = dict(run["conditions"])
        seen[f"torch threads of {NAMES[run['lib']]}"] = seen.pop("threads")
        for name, value in seen.items():
            noted.setdefault(name, set()).add(str(value))
    if loads := sorted(noted.pop("load", ()), key=float):
        noted["load before a run"] = {f"{loads[0]} to {loads[-1]}"}
    return ["No GPU.", "", *(f"- {name}: {' or '.join(sorted(values))}" for name, values in noted.items())]


if __name__ == "__main__":
    main()
