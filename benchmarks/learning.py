"""How well metta learns without a flag, over 5 seeds, beside Stable-Baselines3 at the same number of steps.

    .venv/bin/python benchmarks/learning.py            # trains what the result files lack, writes learning.md
    .venv/bin/python benchmarks/learning.py --table    # only writes learning.md

Each line of the result files in benchmarks/data is one training run: its own process, one thread, then 100 episodes of
seeds that training did not use. Stable-Baselines3's runs (sb3_learning.py) need .venv-bench (requirements.txt here).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
OURS, PEERS = HERE / "data" / "metta.jsonl", HERE / "data" / "sb3.jsonl"
SEEDS = range(5)
EVAL_EPISODES = 100
EVAL_SEED = 1_000_000
STEPS = {
    "CartPole-v1": 200_000,
    "Pendulum-v1": 500_000,
    "MinAtar/Breakout-v1": 500_000,
    "navigation": 1_000_000,
    "arena": 2_000_000,
}
TARGETS = {
    "CartPole-v1": "475 on every seed",
    "Pendulum-v1": "-300 on average",
    "MinAtar/Breakout-v1": "clear above random, SB3's interval or above",
    "navigation": "5 times random",
    "arena": "5 times random",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="train nothing, write the table")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    parser.add_argument("--env", choices=STEPS, help="this one only")
    parser.add_argument("--ours", action="store_true", help="train no Stable-Baselines3")
    parser.add_argument("--one", type=int, metavar="SEED", help="train one seed of --env in this process")
    args = parser.parse_args()
    if args.one is not None:
        append(OURS, measure(args.env, args.one))
        return
    if not args.table:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(run, missing([args.env] if args.env else list(STEPS), args.ours)))
    (HERE / "learning.md").write_text(table())
    print(table())


PEER_SETTINGS = {"navigation": ("own",), "arena": ("own",)}  # of the others the zoo's and the library's defaults


def missing(envs: list[str], only_ours: bool) -> list[list[str]]:
    """The commands of the runs that the result files lack."""
    commands = []
    for env in envs:
        for seed in SEEDS:
            if not any(line["seed"] == seed for line in lines(OURS, env)):
                commands.append([sys.executable, __file__, "--env", env, "--one", str(seed)])
            for settings in () if only_ours else PEER_SETTINGS.get(env, ("zoo", "default")):
                if not any((line["seed"], line["settings"]) == (seed, settings) for line in lines(PEERS, env)):
                    python = HERE.parent / ".venv-bench" / "bin" / "python"
                    script = [str(HERE / "sb3_learning.py"), env, "--seed", str(seed), "--out", str(PEERS)]
                    commands.append([str(python), *script, "--settings", settings])
    return commands


def run(command: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    print("+", *command, flush=True)
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def measure(env: str, seed: int) -> dict[str, Any]:
    """Train with the defaults and evaluate; an episode of several agents counts with the mean of its agents."""
    from metta.envs.env_spec import EnvName
    from metta.eval.policy_evaluator import PolicyEvaluator
    from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
    from metta.rl.train_config import TrainConfig
    from metta.rl.trainer import train

    with tempfile.TemporaryDirectory() as train_dir:
        start = time.perf_counter()
        config = TrainConfig(
            run="run", env=env, seed=seed, total_timesteps=STEPS[env], device="cpu", display="none",
            checkpoint_interval=1_000_000, train_dir=train_dir, num_workers=0,
        )  # fmt: skip
        assert train(config) == 0
        seconds = time.perf_counter() - start
        manager = TinyCheckpointManager("run", train_dir)
        epoch, agent, state = manager.load_latest() or sys.exit("no checkpoint")
        with PolicyEvaluator(train_dir) as evaluator:
            score = evaluator.evaluate("run", epoch, episodes=EVAL_EPISODES, seed=EVAL_SEED)
            random = evaluator.evaluate_random(EnvName(env), episodes=EVAL_EPISODES, seed=EVAL_SEED)
    return {
        "lib": "metta",
        "env": env,
        "seed": seed,
        "steps": state["agent_steps"],
        "mean": score.mean,
        "random": random.mean,
        "parameters": sum(parameter.numel() for parameter in agent.parameters()),
        "seconds": round(seconds, 1),
        "versions": {name: version(name) for name in ("torch", "gymnasium", "numpy", "mettagrid")}
        | {"python": platform.python_version()},
    }


def append(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def lines(path: Path, env: str) -> list[dict[str, Any]]:
    """The runs of an environment at the table's number of steps."""
    every = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in every if line["env"] == env and line.get("asked_steps", STEPS[env]) == STEPS[env]]


def peer_means(env: str) -> tuple[list[float], str]:
    """Stable-Baselines3's score for each seed: the better of acting by mode and by sample, of its settings tried.

    Settings tried with fewer than 3 seeds do not count: the best of one is luck.
    """
    candidates: dict[tuple[str, str], list[float]] = {}
    for line in lines(PEERS, env):
        for how in ("deterministic", "sampled"):
            if how in line["mean"]:
                candidates.setdefault((line["settings"], how), []).append(line["mean"][how])
    if not candidates:
        return [], ""
    several = {key: means for key, means in candidates.items() if len(means) >= 3} or candidates
    (settings, how), means = max(several.items(), key=lambda item: float(np.mean(item[1])))
    return means, f"{settings}, {how}"


def interval(means: list[float]) -> str:
    """Mean and 95% interval over seeds: Student's t, as 5 seeds are few."""
    if len(means) < 2:
        return "-" if not means else f"{means[0]:.2f}"
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}[len(means)]
    half = t * float(np.std(means, ddof=1)) / len(means) ** 0.5
    return f"{np.mean(means):.2f} [{np.mean(means) - half:.2f}, {np.mean(means) + half:.2f}]"


def table() -> str:
    rows = [
        "| env | steps | must reach | metta | every seed | random | Stable-Baselines3 | its settings | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for env, steps in STEPS.items():
        ours, (theirs, settings) = lines(OURS, env), peer_means(env)
        means = [line["mean"] for line in ours]
        each = ", ".join(f"{mean:.2f}" for mean in means)
        random = f"{np.mean([line['random'] for line in ours]):.2f}" if ours else "-"
        rows.append(
            f"| {env} | {steps:,} | {TARGETS[env]} | {interval(means)} | {each} | {random} | {interval(theirs)} "
            f"| {settings} | {len(means)}, {len(theirs)} |"
        )
    return "\n".join(
        [
            "# Learning",
            "",
            "Mean reward over 100 episodes, its mean over seeds and 95% interval (Student's t). metta without a flag;",
            "an episode of several agents counts with the mean of its agents. Made by `benchmarks/learning.py`.",
            "",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
