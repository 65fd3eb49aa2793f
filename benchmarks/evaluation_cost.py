"""What `evaluate=N` costs: training's agent steps per second with it and without, in turn, on this machine.

    PYTHONPATH=. .venv-bench/bin/python benchmarks/evaluation_cost.py [--rounds 5] [--only arena]

Each training is a process of its own, without a flag but for its steps; the rate is that from its second epoch to its
last. Shown too is how long a training waits, once it is done, for the score of its last checkpoint. Writes
benchmarks/data/evaluation_cost.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.summary import conditions, spread, write

EPISODES = 20
STEPS = {"CartPole-v1": 150_000, "arena": 300_000}  # with some five checkpoints each
INTERVALS = {"CartPole-v1": 30, "arena": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=STEPS, default=list(STEPS))
    parser.add_argument("--measure", nargs=2, metavar=("ENV", "EPISODES"), help="measure one, here")
    args = parser.parse_args()
    if args.measure:
        env, episodes = args.measure
        print(json.dumps(measure(env, int(episodes) or None)))
        return
    began = conditions(threads=0, episodes=EPISODES, steps=STEPS)
    results = [compare(env, args.rounds) for env in args.only]
    write("evaluation_cost", {"conditions": began, "results": results})


def compare(env: str, rounds: int) -> dict[str, Any]:
    """Train with and without, in turn, and print what it costs."""
    rates: dict[int, list[float]] = {0: [], EPISODES: []}
    waits = []
    for _ in range(rounds):
        for episodes, measured in rates.items():
            command = [sys.executable, __file__, "--measure", env, str(episodes)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            measured.append(result["steps_per_second"])
            waits += [result["wait_s"]] if episodes else []
    without, scored = rates.values()
    share = 1 - statistics.median(scored) / statistics.median(without)
    print(
        f"{env}: {spread(without)} agent steps/s without, {spread(scored)} with evaluate={EPISODES}: "
        f"{round(100 * share)}% of the throughput; the last score is waited for {spread(waits, 1)} s",
        flush=True,
    )
    return {"env": env, "without": without, "with": scored, "wait_s": waits}


def measure(env: str, evaluate: int | None) -> dict[str, float]:
    """Train once; seconds are those of the wall clock."""
    from metta import TrainConfig, train

    at: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as train_dir:
        config = TrainConfig(
            run="cost", env=env, total_timesteps=STEPS[env], checkpoint_interval=INTERVALS[env], evaluate=evaluate,
            device="cpu", display="none", train_dir=train_dir,
        )  # fmt: skip
        train(config, on_epoch=lambda trainer, scalars: at.append((trainer.agent_steps, time.perf_counter())))
        ended = time.perf_counter()
    (first, began), (last, done) = at[0], at[-1]
    return {"steps_per_second": (last - first) / (done - began), "wait_s": ended - done}


if __name__ == "__main__":
    main()
