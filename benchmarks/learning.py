"""How well metta learns without a flag, over 5 seeds, on the environments of ladder.py, beside Stable-Baselines3.

    .venv/bin/python benchmarks/learning.py --group tuning   # trains what the result files lack, writes learning.md
    .venv/bin/python benchmarks/learning.py --table          # only writes learning.md

Each line of the result files in benchmarks/data is one training run: its own process, one thread, then 100 episodes of
seeds that training did not use. The environments need more than `make test` installs: .venv/bin/pip install
'gymnasium[box2d,mujoco]' minatar minigrid. Stable-Baselines3's runs (sb3_learning.py) need .venv-bench.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # this file is run as a script

from benchmarks.ladder import GROUPS, RUNGS, Rung
from benchmarks.summary import table, write_readme
from metta.eval.statistics import iqm_stratified, probability_of_improvement

HERE = Path(__file__).parent
OURS, PEERS = HERE / "data" / "metta.jsonl", HERE / "data" / "sb3.jsonl"
NOTES = HERE / "data" / "tried.md"  # what was tried and dropped, with its numbers
SEEDS = 5
EVAL_EPISODES = 100
EVAL_SEED = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="train nothing, write the table")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once")
    parser.add_argument("--group", choices=GROUPS, help="these only")
    parser.add_argument("--env", choices=RUNGS, help="this one only")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds 0 to this")
    parser.add_argument("--ours", action="store_true", help="train no Stable-Baselines3")
    parser.add_argument("--one", type=int, metavar="SEED", help="train one seed of --env in this process")
    args = parser.parse_args()
    if args.one is not None:
        append(OURS, measure(RUNGS[args.env], args.one))
        return
    if not args.table:
        rungs = GROUPS[args.group] if args.group else tuple(RUNGS.values())
        rungs = (RUNGS[args.env],) if args.env else rungs
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(run, missing(rungs, args.seeds, args.ours)))
    (HERE / "learning.md").write_text(page())
    write_readme(readme_table())
    draw()
    print(page())


# What Stable-Baselines3 is trained with here; the others are measured by what the zoo has published.
PEER_SETTINGS = {
    "arena": ("own",), "navigation": ("own",), "FrozenLake-v1": ("default",), "Taxi-v4": ("default",),
} | dict.fromkeys(
    ("CartPole-v1", "Pendulum-v1", "MinAtar/Breakout-v1", "MinAtar/Asterix-v1", "MinAtar/Freeway-v1"),
    ("zoo", "default"),
)  # fmt: skip


def missing(rungs: Sequence[Rung], seeds: int, only_ours: bool) -> list[list[str]]:
    """The commands of the runs that the result files lack, one seed of all environments after the other."""
    commands = []
    for seed in range(seeds):
        for rung in rungs:
            if not any(line["seed"] == seed for line in lines(OURS, rung)):
                commands.append([sys.executable, __file__, "--env", rung.label, "--one", str(seed)])
            for settings in () if only_ours else PEER_SETTINGS.get(rung.env, ()):
                if not any((line["seed"], line["settings"]) == (seed, settings) for line in lines(PEERS, rung)):
                    python = HERE.parent / ".venv-bench" / "bin" / "python"
                    script = [str(HERE / "sb3_learning.py"), rung.label, "--seed", str(seed), "--out", str(PEERS)]
                    commands.append([str(python), *script, "--settings", settings])
    return commands


def run(command: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    print("+", *command, flush=True)
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def measure(rung: Rung, seed: int) -> dict[str, Any]:
    """Train with the defaults and evaluate; an episode of several agents counts with the mean of its agents."""
    from metta.envs.env_spec import EnvName
    from metta.eval.policy_evaluator import PolicyEvaluator
    from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
    from metta.rl.train_config import TrainConfig
    from metta.rl.trainer import train

    with tempfile.TemporaryDirectory() as train_dir:
        start = time.perf_counter()
        config = TrainConfig(
            run="run", env=rung.env, env_settings=rung.settings, seed=seed, total_timesteps=rung.steps, device="cpu",
            display="none", checkpoint_interval=1_000_000, train_dir=train_dir, num_workers=0,
        )  # fmt: skip
        assert train(config) == 0
        seconds = time.perf_counter() - start
        manager = TinyCheckpointManager("run", train_dir)
        epoch, agent, state = manager.load_latest() or sys.exit("no checkpoint")
        with PolicyEvaluator(train_dir) as evaluator:
            score = evaluator.evaluate("run", epoch, episodes=EVAL_EPISODES, seed=EVAL_SEED)
            random = evaluator.evaluate_random(EnvName(rung.env, rung.settings), episodes=EVAL_EPISODES, seed=EVAL_SEED)
    return {
        "lib": "metta",
        "env": rung.label,
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


def lines(path: Path, rung: Rung) -> list[dict[str, Any]]:
    """The runs of an environment at the ladder's number of steps."""
    every = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in every if line["env"] == rung.label and line.get("asked_steps", rung.steps) == rung.steps]


def peer_means(rung: Rung) -> tuple[list[float], str]:
    """Stable-Baselines3's score for each seed: the better of acting by mode and by sample, of its settings tried.

    Settings tried with fewer than 3 seeds do not count: the best of one is luck.
    """
    candidates: dict[tuple[str, str], list[float]] = {}
    for line in lines(PEERS, rung):
        for how in ("deterministic", "sampled"):
            if how in line["mean"]:
                candidates.setdefault((line["settings"], how), []).append(line["mean"][how])
    if not candidates:
        return [], ""
    several = {key: means for key, means in candidates.items() if len(means) >= 3} or candidates
    (settings, how), means = max(several.items(), key=lambda item: float(np.mean(item[1])))
    return means, f"{settings}, {how}"


def normalised(rung: Rung) -> tuple[list[float], list[float]]:
    """Our runs' scores and those of Stable-Baselines3 here, where 0 is the random agent and 1 is `good`.

    The random agent is the mean of ours over the seeds. [] where nothing is good: the peer is no better than it, or
    was not trained.
    """
    ours, (theirs, _) = lines(OURS, rung), peer_means(rung)
    good = rung.good if rung.good is not None else float(np.mean(theirs)) if theirs else None
    zero = float(np.mean([line["random"] for line in ours])) if ours else 0.0
    if good is None or not ours or good <= zero:
        return [], []
    means = [line["mean"] for line in ours]
    return [(mean - zero) / (good - zero) for mean in means], [(mean - zero) / (good - zero) for mean in theirs]


def interval(means: list[float]) -> str:
    """Mean and 95% interval over seeds: Student's t, as 5 seeds are few."""
    if len(means) < 2:
        return "-" if not means else f"{means[0]:.2f}"
    t = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}[len(means)]
    half = t * float(np.std(means, ddof=1)) / len(means) ** 0.5
    return f"{np.mean(means):.2f} [{np.mean(means) - half:.2f}, {np.mean(means) + half:.2f}]"


def page() -> str:
    text = [
        "# Learning",
        "",
        "Made by `benchmarks/learning.py`: metta without a flag, last checkpoint, mean reward over 100 episodes; over",
        "seeds the mean and 95% interval (Student's t). An episode of several agents counts with their mean.",
        "A normalised score of 0 is the random agent; 1 is what RL Baselines3 Zoo's tuned settings reached, as it has",
        "published (one run each), or our own Stable-Baselines3 runs at the same steps where it has none.",
        "No default was chosen by a score in the test group; the layer norm of small grids was sought since",
        "MiniGrid-Unlock-v0 was not learned without it, and chosen on MiniGrid-DoorKey-5x5-v0, in neither group.",
    ]
    for name, rungs in GROUPS.items():
        text += ["", f"## {name.capitalize()} group", "", as_table(PAGE, rungs), "", summary(rungs)]
    if NOTES.exists():
        text += ["", NOTES.read_text().rstrip()]
    return "\n".join([*text, ""])


PAGE = ("env", "steps", "metta", "every seed", "random", "RL Zoo", "normalised", "Stable-Baselines3 here", "seeds")
README = ("env", "steps", "metta", "seeds", "RL Zoo", "Stable-Baselines3 here", "normalised", "random")


def row(rung: Rung) -> dict[str, str]:
    """The cells of an environment's row, by the names of their columns."""
    ours, (theirs, settings) = lines(OURS, rung), peer_means(rung)
    means, (scaled, _) = [line["mean"] for line in ours], normalised(rung)
    return {
        "env": rung.label,
        "steps": f"{rung.steps:,}",
        "metta": interval(means),
        "every seed": ", ".join(f"{mean:.2f}" for mean in means),
        "random": f"{np.mean([line['random'] for line in ours]):.2f}" if ours else "-",
        "RL Zoo": "-" if rung.good is None else f"{rung.good:g}{f' ({rung.note})' if rung.note else ''}",
        "normalised": f"{np.mean(scaled):.2f}" if scaled else "-",
        "Stable-Baselines3 here": f"{interval(theirs)} {settings}" if theirs else "-",
        "seeds": f"{len(means)}, {len(theirs)}" if theirs else f"{len(means)}",
    }


def as_table(columns: Sequence[str], rungs: Sequence[Rung]) -> str:
    rows = [row(rung) for rung in rungs]
    return table(columns, [[cells[column] for column in columns] for cells in rows])


def readme_table() -> str:
    """README's table: every environment that was trained on, the tuning group first."""
    return as_table(README, [rung for rung in RUNGS.values() if lines(OURS, rung)])


def summary(rungs: Sequence[Rung]) -> str:
    """The interquartile mean of as many seeds of each environment as all of them have."""
    scores = [ours for rung in rungs if (ours := normalised(rung)[0])]
    if not scores:
        return ""
    seeds = min(map(len, scores))
    value, low, high = iqm_stratified(np.array([each[:seeds] for each in scores]).T)
    count = f"{len(scores)} of {len(rungs)} environments, {seeds} seed{'s' if seeds > 1 else ''} of each"
    text = f"Interquartile mean of the normalised scores: {value:.2f} [{low:.2f}, {high:.2f}] ({count})."
    wins = [probability_of_improvement(*map(column, both)).value for rung in rungs if all(both := normalised(rung))]
    if wins:
        count = f"mean over the {len(wins)} environments that both were trained on here"
        text += f"\nProbability of improvement over Stable-Baselines3's better settings: {np.mean(wins):.2f} ({count})."
    return text


def column(scores: list[float]) -> np.ndarray:
    """Each run's score as a run of one episode."""
    return np.array(scores)[:, None]


OURS_MARKS: dict[str, Any] = {"color": "#2a6fdb", "alpha": 0.7, "label": "metta, no flag"}
PEERS_MARKS: dict[str, Any] = {"color": "#e8701a", "fillstyle": "none", "label": "Stable-Baselines3 here"}


def draw() -> None:
    """benchmarks/learning.svg: every run's normalised score, a row for each environment, a panel for each group."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "metta"
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, (name, rungs) in zip(figure.subplots(1, len(GROUPS), sharex=True), GROUPS.items(), strict=True):
        shown = [rung for rung in rungs if normalised(rung)[0]]
        for at, rung in enumerate(shown):
            for scores, marks in zip(normalised(rung), (OURS_MARKS, PEERS_MARKS), strict=True):
                axes.plot(scores, [at] * len(scores), "o", **marks)
        axes.set_yticks(range(len(shown)), [rung.label.replace(",", ",\n") for rung in shown], fontsize=8)
        axes.invert_yaxis()
        for at, style in ((0, ":"), (1, "-")):
            axes.axvline(at, color="#5f6672", linewidth=0.8, linestyle=style, zorder=0)
        axes.set(title=f"{name} group", xlabel="0: random agent, 1: RL Zoo", xlim=(-0.1, None))
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(HERE / "learning.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
