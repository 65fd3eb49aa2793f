"""How training scales over ranks: measured for 1 and 2 here, worked out for more from what compute and exchange take.

    PYTHONPATH=. OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scaling.py      # writes benchmarks/scaling.md

Weak scaling: each rank has as many environments as one rank has alone, and there are as many minibatches. A rank
computes alone for as many seconds an epoch, whatever their number. It meets the others once a minibatch, and each time
sends its slices of the gradients to the other ranks, and then the sum of one slice. So an exchange takes

    fixed  +  2 * (ranks - 2) * MESSAGE_S  +  2 * (ranks - 1) / ranks * bytes / bandwidth

where `fixed` and the bandwidth of the loopback are fitted to what was measured here with 2 ranks: waking up, gloo and
waiting for the other one. The efficiency is compute / (compute + exchanges * that). Waiting for the slowest of many is
not in it, nor what ranks on one machine take of each other's caches, which the measured efficiency has.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
EPOCHS = 10  # measured, after two of warm-up; a number, for ranks that watched the clock would part
MESSAGE_S = 5e-6  # to hand one message to the network
BANDWIDTHS = (1, 10, 25, 100)  # Gb/s
RANKS = (2, 8, 64, 1000)
# name -> (settings of one rank, how many times larger than by default its minibatches are)
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "arena, 8 environments a rank": ({"env": "arena", "num_envs": 8}, 1),
    "arena, 32 environments a rank": ({"env": "arena", "num_envs": 32}, 1),
    "arena, 32 environments a rank, minibatches 4 times as large": ({"env": "arena", "num_envs": 32}, 4),
    "CartPole, 64 environments a rank": ({"env": "CartPole-v1", "num_envs": 64}, 1),
}


def main() -> None:
    rows, predictions = [], []
    pairs = {name: (measured(name, 1), measured(name, 2)) for name in CASES}
    sizes = np.array([alone["bytes"] for alone, _ in pairs.values()])
    seconds = np.array([pair["exchange_s"] / alone["exchanges"] for alone, pair in pairs.values()])
    per_byte, fixed = np.polyfit(sizes, seconds, 1)
    for name, (alone, pair) in pairs.items():
        efficiency = pair["steps_per_second"] / (2 * alone["steps_per_second"])
        here = predicted(alone, 2, fixed, 8e-9 / per_byte)
        rows.append(
            f"| {name} | {alone['steps_per_second']:,.0f} | {pair['steps_per_second']:,.0f} | {efficiency:.2f} "
            f"| {here:.2f} | {1000 * alone['epoch_s']:,.0f} ms | {alone['exchanges']} "
            f"| {1000 * pair['exchange_s']:,.1f} ms | {alone['bytes'] / 1e6:.2f} MB |"
        )
        for ranks in RANKS:
            cells = [f"{predicted(alone, ranks, fixed, gigabits):.2f}" for gigabits in BANDWIDTHS]
            predictions.append(f"| {name} | {ranks:,} | {' | '.join(cells)} |")
    text = (HERE / "scaling.md").read_text() if (HERE / "scaling.md").exists() else "# Scaling over ranks\n"
    head = text.split("\n## Measured")[0].rstrip()
    measured_head = (
        "| case | 1 rank, steps/s | 2 ranks, steps/s | efficiency | by the model | compute of an epoch | exchanges "
        "| exchange of an epoch, 2 ranks | gradients |\n" + "|---" * 9 + "|\n"
    )
    predicted_head = f"| case | ranks | {' | '.join(f'{g} Gb/s' for g in BANDWIDTHS)} |\n" + "|---" * 6 + "|\n"
    (HERE / "scaling.md").write_text(
        f"{head}\n\n## Measured\n\n{measured_head}"
        + "\n".join(rows)
        + f"\n\nAn exchange: {1000 * fixed:.1f} ms, and {1e6 * 1000 * per_byte:.1f} ms for each MB."
        + f"\n\n## Predicted efficiency\n\n{predicted_head}"
        + "\n".join(predictions)
        + "\n"
    )


def measured(case: str, ranks: int) -> dict[str, float]:
    own = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *own, __file__, "--measure", case, str(ranks)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def predicted(alone: dict[str, float], ranks: int, fixed: float, gigabits: float) -> float:
    """The efficiency of so many ranks."""
    sent = 2 * (ranks - 1) / ranks * alone["bytes"] / (gigabits * 1e9 / 8)
    exchange = fixed + 2 * (ranks - 2) * MESSAGE_S + sent
    return alone["epoch_s"] / (alone["epoch_s"] + alone["exchanges"] * exchange)


def measure(case: str, ranks: int) -> int:
    """Measure in the first of the ranks that torchrun has started, and print it."""
    from metta.rl.learning.summed_gradients import SummedGradients
    from metta.rl.one_run import Trainer
    from metta.rl.train_config import TrainConfig

    own, _ = CASES[case]
    settings = {**own, "num_envs": own["num_envs"] * ranks, "num_shards": ranks, "num_workers": 0}
    settings["minibatch_size"] = minibatch(case, ranks)
    trainer = Trainer(TrainConfig(run="scaling", device="cpu", **settings))
    for _ in range(2):
        trainer.run_epoch()
    trainer.timers.seconds.clear()
    began = time.perf_counter()
    for _ in range(EPOCHS):
        trainer.run_epoch()
    elapsed, config = time.perf_counter() - began, trainer.config
    steps = config.horizon * config.num_envs * trainer.spec.num_agents
    found = {
        "steps_per_second": EPOCHS * steps / elapsed,
        "epoch_s": elapsed / EPOCHS,
        "exchange_s": trainer.timers.seconds.get("exchange", 0.0) / EPOCHS,
        "exchanges": config.update_epochs * -(-steps // config.minibatch_size),
        "bytes": 4 * SummedGradients.size(trainer.agent),
    }
    trainer.close()
    print(json.dumps(found), flush=True)
    return 0


def minibatch(case: str, ranks: int) -> int:
    """As large as gives as many minibatches as one rank has."""
    from metta.envs.make_env import spec_of
    from metta.rl.defaults import with_defaults
    from metta.rl.train_config import TrainConfig

    settings, larger = CASES[case]
    config = TrainConfig(run="scaling", **settings)
    return ranks * larger * with_defaults(config, spec_of(config.env_name), "cpu").minibatch_size


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        from metta.rl.learning.together import train_together

        case, ranks = sys.argv[2], int(sys.argv[3])
        sys.exit(measure(case, ranks) if ranks == 1 else train_together(lambda: measure(case, ranks)))
    main()
