"""How training speed grows with environments, agents and parameters, and how far it is from what the machine could do.

    PYTHONPATH=. .venv-bench/bin/python benchmarks/growth.py [--seconds 4] [--only num_envs agents parameters limit]

Every line is one trainer, in this process, on one torch thread: agent steps per second, the share of its phases, and
which limit is the largest part of a step's time: `env` (the environment's own step), `arithmetic` (the multiplications
of acting and learning, at the peak of one core's matrix product), `memory` (parameters passed over by Adam and
observations copied, at one core's copying rate), or `calls` (all that is left: Python, and torch's cost of a call).

The limit is cores / (env time + arithmetic time) for a step, as if all cores were busy with nothing else; what fraction
of it CartPole, arena and Breakout reach with their environments in this process, and in a worker for each
core, is measured with the settings of training_speed.py. Writes benchmarks/data/growth.json and benchmarks/growth.svg.
"""

import argparse
import math
import os
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.summary import HERE, conditions, write
from benchmarks.training_speed import CASES
from metta.envs.env_spec import EnvName
from metta.envs.make_env import spec_of
from metta.envs.vec_env import EpisodeSeeds, VecEnv
from metta.rl.one_run import Trainer
from metta.rl.train_config import TrainConfig

CARTPOLE = {"env": "CartPole-v1", "horizon": 128, "update_epochs": 4}
ARENA = {"env": "arena", "num_envs": 1, "horizon": 64, "update_epochs": 1, "minibatch_size": 4096}
ADAM_BYTES = (
    4 * 10
)  # a parameter in a minibatch: gradient zeroed, written, normed and clipped, Adam's four reads, three writes
Line = dict[str, Any]


def num_envs_cases() -> dict[str, dict[str, Any]]:
    return {str(n): {**CARTPOLE, "num_envs": n, "minibatch_size": 32 * n} for n in (1, 8, 64, 512)}


def agents_cases() -> dict[str, dict[str, Any]]:
    """The arena grows with its agents: 26 cells for each, and mines, generators and altars in proportion."""
    cases = {}
    for agents in (1, 8, 24, 100, 300, 1000):
        side = max(25, math.ceil(math.sqrt(26 * agents)))
        objects = {
            name: math.ceil(n * max(1, agents / 24)) for name, n in (("mines", 10), ("generators", 8), ("altars", 8))
        }
        cases[str(agents)] = {
            **ARENA, "env_settings": {"num_agents": agents, "width": side, "height": side, **objects}
        }  # fmt: skip
    return cases


def parameters_cases() -> dict[str, dict[str, Any]]:
    """CartPole's two networks of two layers: 9,000 parameters at a width of 64."""
    widths = {"10k": 67, "100k": 220, "1M": 704, "10M": 2233}
    return {n: {**CARTPOLE, "num_envs": 8, "minibatch_size": 256, "hidden_size": w} for n, w in widths.items()}


SWEEPS = {"num_envs": num_envs_cases, "agents": agents_cases, "parameters": parameters_cases}
LIMIT_CASES = ("cartpole-8", "cartpole-64", "arena", "breakout")


def best_of(call: Any, times: int = 5) -> float:
    """The shortest time of a call, in seconds: a peak is what the machine does when nothing disturbs it."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def peak_flops() -> float:
    """FLOP/s of one core's matrix product, float32."""
    a = torch.randn(1024, 1024)
    out = torch.empty_like(a)
    return 2 * 1024**3 / best_of(lambda: torch.mm(a, a, out=out), 20)


def copy_rate() -> float:
    """Bytes/s of one core's copy, counted once, into memory already touched."""
    source = torch.ones(64_000_000)
    copied = source.clone()
    return source.nbytes / best_of(lambda: copied.copy_(source))


def env_seconds(settings: dict[str, Any], seconds: float) -> float:
    """Of the environment's own step, for each agent step, with random actions in one process."""
    spec = spec_of(EnvName(settings["env"], settings.get("env_settings", {})))
    envs = VecEnv(spec, min(settings["num_envs"], 64), EpisodeSeeds(0))
    assert envs.spec.num_actions is not None
    actions = np.random.default_rng(0).integers(0, envs.spec.num_actions, (16, envs.batch_size))
    envs.reset()
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        envs.step(actions[steps % 16])
        steps += 1
    result = (time.perf_counter() - began) / (steps * envs.batch_size)
    envs.close()
    return result


def count_flops(trainer: Trainer) -> float:
    """Floating-point operations of an epoch, for each agent step; a sparse product's are two for each weight used."""

    def bag(weight: Any, indices: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * math.prod(indices) * weight[1]

    aten = torch.ops.aten
    custom = {aten._embedding_bag: bag, aten._embedding_bag_forward_only: bag}
    before = trainer.agent_steps
    with FlopCounterMode(display=False, custom_mapping=custom) as counter:
        trainer.run_epoch()
    return counter.get_total_flops() / (trainer.agent_steps - before)


def memory_bytes(trainer: Trainer) -> float:
    """Moved for each agent step: all parameters in every minibatch; observations in the rollout and each pass."""
    config, spec = trainer.config, trainer.spec
    parameters = sum(parameter.numel() for parameter in trainer.agent.parameters())
    per_minibatch = min(config.minibatch_size, config.horizon * trainer.config.num_envs * trainer.spec.num_agents)
    observation = math.prod(spec.observation_shape) * np.dtype(spec.observation_dtype).itemsize
    return config.update_epochs * (parameters * ADAM_BYTES / per_minibatch + observation) + observation


def make_trainer(settings: dict[str, Any], num_workers: int = 0) -> Trainer:
    return Trainer(TrainConfig(run="growth", total_timesteps=10**9, device="cpu", num_workers=num_workers, **settings))


def steps_per_second(trainer: Trainer, seconds: float) -> float:
    trainer.run_epoch()
    trainer.timers.seconds.clear()
    before, began = trainer.agent_steps, time.perf_counter()
    while time.perf_counter() - began < seconds:
        trainer.run_epoch()
    return (trainer.agent_steps - before) / (time.perf_counter() - began)


def measure(settings: dict[str, Any], machine: dict[str, float], seconds: float) -> Line:
    trainer = make_trainer(settings)
    flops = count_flops(trainer)
    rate = steps_per_second(trainer, seconds)
    phases, total = trainer.timers.seconds, sum(trainer.timers.seconds.values())
    us = {
        "env": env_seconds(settings, seconds / 4) * 1e6,
        "arithmetic": flops / machine["flops"] * 1e6,
        "memory": memory_bytes(trainer) / machine["copy"] * 1e6,
    }
    us["calls"] = max(0.0, 1e6 / rate - sum(us.values()))
    line = {
        "parameters": sum(parameter.numel() for parameter in trainer.agent.parameters()),
        "steps_per_second": rate,
        "flops_per_step": flops,
        "us": us,
        "phases": {name: value / total for name, value in phases.items()},
        "largest": max(us, key=lambda name: us[name]),
    }
    trainer.close()
    return line


def measure_limit(case: str, machine: dict[str, float], seconds: float, rounds: int) -> Line:
    """What the trainer reaches of the limit, with its environments in this process and on every core."""
    settings, cores = CASES[case][0], os.cpu_count() or 1
    trainers = {workers: make_trainer(settings, workers) for workers in (0, cores - 1)}
    flops = count_flops(trainers[0])
    env_s = min(env_seconds(settings, seconds / 4) for _ in range(3))
    rates: dict[str, list[float]] = {str(workers): [] for workers in trainers}
    for _ in range(rounds):
        for workers, trainer in trainers.items():
            rates[str(workers)].append(steps_per_second(trainer, seconds))
    for trainer in trainers.values():
        trainer.close()
    limit = cores / (env_s + flops / machine["flops"])
    fractions = {workers: statistics.median(values) / limit for workers, values in rates.items()}
    return {
        "limit": limit, "env_us": env_s * 1e6, "arithmetic_us": flops / machine["flops"] * 1e6, "rates": rates,
        "fractions": fractions, "share_of_peak": statistics.median(rates["0"]) * flops / machine["flops"],
    }  # fmt: skip


def print_line(label: str, line: Line) -> None:
    phases = "  ".join(f"{name} {line['phases'].get(name, 0):4.0%}" for name in ("env", "forward", "learn"))
    us = "  ".join(f"{name} {value:.2f}" for name, value in line["us"].items())
    print(f"{label:16}{line['parameters']:>12,}{line['steps_per_second']:>10,.0f}/s  {phases}  |  us: {us}", flush=True)


def plot(results: dict[str, dict[str, Line]]) -> None:
    """benchmarks/growth.svg: one panel for each sweep, measured beside the machine's limit."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "metta"
    from matplotlib import pyplot

    sweeps = [name for name in SWEEPS if name in results]
    figure, panels = pyplot.subplots(1, len(sweeps), figsize=(4 * len(sweeps), 3.4), squeeze=False, sharey=True)
    for panel, sweep in zip(panels[0], sweeps, strict=True):
        lines = results[sweep].values()
        x = (
            [line["parameters"] for line in lines]
            if sweep == "parameters"
            else [int(label) for label in results[sweep]]
        )
        panel.loglog(x, [line["steps_per_second"] for line in lines], "o-", color="#0072b2", label="measured")
        for name, colour in (("env", "#009e73"), ("arithmetic", "#d55e00"), ("memory", "#999999")):
            panel.loglog(x, [1e6 / line["us"][name] for line in lines], "--", color=colour, label=f"{name} alone")
        panel.set_xlabel(
            {"num_envs": "num_envs, CartPole-v1", "agents": "agents, arena"}.get(sweep, "parameters, CartPole-v1")
        )
        panel.grid(True, which="major", alpha=0.3)
    panels[0][0].set_ylabel("agent steps/s, one core")
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "growth.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement, after warm-up")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison with the limit")
    parser.add_argument("--only", nargs="*", choices=[*SWEEPS, "limit"], default=[*SWEEPS, "limit"])
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # the trainer sets its own number of threads without it
    torch.set_num_threads(1)
    machine = {"flops": peak_flops(), "copy": copy_rate()}
    print(f"one core: {machine['flops'] / 1e9:.0f} GFLOP/s, copies {machine['copy'] / 1e9:.1f} GB/s")
    results: dict[str, Any] = {"conditions": conditions(1, seconds=args.seconds), "machine": machine}
    for sweep, cases in SWEEPS.items():
        if sweep in args.only:
            print(f"\n{sweep:16}{'parameters':>12}{'steps':>12}")
            results[sweep] = {}
            for label, settings in cases().items():
                results[sweep][label] = line = measure(settings, machine, args.seconds)
                print_line(label, line)
    if "limit" in args.only:
        print()
        results["limit"] = {}
        for case in LIMIT_CASES:
            results["limit"][case] = line = measure_limit(case, machine, args.seconds, args.rounds)
            shown = "  ".join(f"{workers} workers {fraction:.0%}" for workers, fraction in line["fractions"].items())
            share = f"{line['share_of_peak']:.0%} of one core's peak"
            print(f"{case:16}limit {line['limit']:,.0f}/s, reached: {shown}; {share}", flush=True)
    write("growth", results)
    if set(SWEEPS) & set(results):
        plot(results)


if __name__ == "__main__":
    main()
