"""Trains one library on one environment until it reaches the target, and appends what that took to a results file.

    PYTHONPATH=. .venv-bench/bin/python benchmarks/reach_target.py sb3 CartPole-v1 --seed 0 --out /tmp/reached.jsonl

time_to_reward.py runs this for all. The clock runs from the start of the process (of the script, where --started does
not say when that was), and stands still while the policy is evaluated: on the same 20 episodes for every library, whose
seeds no training uses, with the likeliest actions (on arena with drawn ones, as `metta sim` does), at the first end of
an update past each multiple of `Goal.every` agent steps. The target is reached at the first evaluation whose mean
return is as high; training ends there.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import cleanrl
from benchmarks.ladder import RUNGS, Rung

Act = Callable[[Any], Any]  # observations [B, *shape] -> actions [B, *shape], both of numpy

EPISODES = 20
EVAL_SEED = 1_000_000
MOST_STEPS = 10_000  # of an episode: a policy may play MinAtar for ever
PACKAGES = ("stable_baselines3", "torch", "numpy", "gymnasium", "mujoco", "Box2D", "MinAtar", "mettagrid")


@dataclass(frozen=True)
class Goal:
    """The mean return to reach on an environment, and how many agent steps lie between two evaluations."""

    target: float
    every: int


GOALS = {
    "CartPole-v1": Goal(475, 1_024),
    "LunarLander-v3": Goal(200, 10_240),
    "Hopper-v5": Goal(2_000, 10_240),
    "MinAtar/Breakout-v1": Goal(10, 10_240),
    "arena": Goal(15, 49_152),
}
LIBRARIES = ("metta", "sb3", "cleanrl")
# Agent steps that the learning rate is annealed over, where a library's maintainers chose others than ladder.py has.
OWN_STEPS = {("sb3", "CartPole-v1"): 100_000, ("cleanrl", "CartPole-v1"): 500_000}


def main() -> None:
    began, load = time.monotonic(), round(os.getloadavg()[0], 1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("env", choices=GOALS)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="results file, JSON lines, appended to")
    parser.add_argument("--started", type=float, default=began, help="when the process was, on the monotonic clock")
    parser.add_argument("--steps", type=int, help="agent steps to train for at most, if not the usual")
    parser.add_argument("--cleanrl", type=Path, default=cleanrl.CLONE, help="CleanRL's clone")
    args = parser.parse_args()
    steps = args.steps or budget(args.library, args.env)
    out, clone = args.out.resolve(), args.cleanrl.resolve()
    watch = Watch(args.env, args.started)
    rung = RUNGS[args.env]
    with tempfile.TemporaryDirectory() as folder, chdir(folder):  # for the runs' own files
        if args.library == "metta":
            train_metta(rung, args.seed, steps, watch)
        elif args.library == "sb3":
            train_sb3(rung, args.seed, steps, watch)
        else:
            cleanrl.train(clone, rung.env, args.seed, steps, watch)
    result = key(args.library, args.env, args.seed, steps) | watch.result() | {"conditions": noted(load)}
    with out.open("a") as file:
        file.write(json.dumps(result) + "\n")


def plays(library: str, env: str) -> bool:
    return library != "cleanrl" or env in cleanrl.SCRIPTS


def budget(library: str, env: str) -> int:
    """Agent steps that a library trains for at most."""
    return OWN_STEPS.get((library, env), RUNGS[env].steps)


def key(library: str, env: str, seed: int, steps: int) -> dict[str, Any]:
    """What tells a line of the results from every other."""
    return {"lib": library, "env": env, "seed": seed, "asked_steps": steps, "target": GOALS[env].target}


def noted(load: float) -> dict[str, Any]:
    """What the time depends on beside the library. load: the machine's, of the last minute before the run."""
    import torch

    threads = torch.get_num_threads()
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {"cores": os.cpu_count(), "threads": threads, "load": load, **versions}


class Watch:
    """Evaluates what a library has learned, with the clock stopped, and says when the target is reached."""

    def __init__(self, env: str, started: float):
        """started: when the process was, in seconds of the monotonic clock."""
        self.env, self.goal = env, GOALS[env]
        self.startup_s: float | None = None
        self.evaluations: list[tuple[int, float, float]] = []  # agent steps, seconds, mean return
        self._started, self._next = started, self.goal.every

    @property
    def seconds(self) -> float:
        """Since the process started, without the evaluations."""
        return time.monotonic() - self._started

    def began(self, seconds_ago: float = 0.0) -> None:
        """Note, the first time, when training began: what came before it was start-up."""
        if self.startup_s is None:
            self.startup_s = self.seconds - seconds_ago

    def reached(self, steps: int, act: Act) -> bool:
        """Evaluate if that is due after so many agent steps; returns whether the target is reached."""
        if steps < self._next:
            return False
        self._next = (steps // self.goal.every + 1) * self.goal.every
        seconds, stopped = self.seconds, time.monotonic()
        mean = self._episodes.mean_return(act)
        print(f"{steps:,} steps, {seconds:.1f} s: {mean:.2f}", file=sys.stderr, flush=True)
        self.evaluations.append((steps, round(seconds, 2), round(mean, 2)))
        self._started += time.monotonic() - stopped
        return mean >= self.goal.target

    @cached_property
    def _episodes(self) -> "Episodes":
        return Episodes(self.env)

    def result(self) -> dict[str, Any]:
        """What is kept. `seconds`: until the target; where it was not reached, until the end of training."""
        assert self.startup_s is not None
        reached = bool(self.evaluations) and self.evaluations[-1][2] >= self.goal.target
        return {
            "reached": reached,
            "seconds": self.evaluations[-1][1] if reached else round(self.seconds, 2),
            "startup_seconds": round(self.startup_s, 2),
            "steps": self.evaluations[-1][0] if self.evaluations else 0,
            "evaluations": self.evaluations,
        }


class Episodes:
    """The episodes that every policy is evaluated on."""

    def __init__(self, env: str):
        from metta.envs.env_spec import EnvName
        from metta.envs.make_env import spec_of
        from metta.envs.vec_env import DealtSeeds, VecEnv

        seeds = DealtSeeds(range(EVAL_SEED, EVAL_SEED + EPISODES))
        self.envs = VecEnv(spec_of(EnvName(env)), EPISODES, seeds)

    def mean_return(self, act: Act) -> float:
        """Play all of them; an episode of several agents counts with their mean."""
        envs, total = self.envs, 0.0
        envs.reset()
        for _ in range(MOST_STEPS):
            if not envs.active.any():
                break
            envs.step(act(envs.observations))
            total += float(envs.rewards.sum())
        return total / envs.batch_size


def train_metta(rung: Rung, seed: int, steps: int, watch: Watch) -> None:
    """Do what `metta train run=run env=ENV seed=SEED total_timesteps=STEPS` does."""
    from metta import TrainConfig, train

    def on_epoch(trainer: Any, scalars: dict[str, float]) -> bool:
        watch.began(trainer.agent_steps / scalars["charts/steps_per_second"])
        alone = trainer.spec.num_agents == 1
        return watch.reached(trainer.agent_steps, lambda rows: trainer.agent.act(rows, deterministic=alone)[0])

    config = TrainConfig(run="run", env=rung.env, env_settings=rung.settings, seed=seed, total_timesteps=steps)
    assert train(config, on_epoch) == 0


def train_sb3(rung: Rung, seed: int, steps: int, watch: Watch) -> None:
    """Train with the zoo's settings, or sb3_mettagrid.py's on arena."""
    from benchmarks.sb3_learning import METTAGRID, build, make_envs, settings_for

    is_game = rung.env in METTAGRID
    settings = dict(settings_for(rung.env, "own" if is_game else "zoo"))
    model = build(rung.env, make_envs(rung, settings.pop("n_envs"), seed), seed, settings)
    normalizer = model.get_vec_normalize_env()

    def act(observations: Any) -> Any:
        if normalizer is not None:
            observations = normalizer.normalize_obs(observations)
        return model.predict(observations, deterministic=not is_game)[0]

    model.learn(steps, callback=sb3_callback(watch, act))


def sb3_callback(watch: Watch, act: Act) -> Any:
    """Make the callback that evaluates after an update: when the next rollout starts, and at the end."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Evaluate(BaseCallback):
        reached = False

        def _on_training_start(self) -> None:
            watch.began()

        def _on_rollout_start(self) -> None:
            self.reached = watch.reached(self.num_timesteps, act)

        def _on_step(self) -> bool:
            return not self.reached

        def _on_training_end(self) -> None:
            if not self.reached:
                watch.reached(self.num_timesteps, act)

    return Evaluate()


if __name__ == "__main__":
    main()
