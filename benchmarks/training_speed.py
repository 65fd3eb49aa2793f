"""Agent steps per second of the whole training loop, metta beside its peers, interleaved on this machine.

    PYTHONPATH=. .venv-bench/bin/python benchmarks/training_speed.py [--rounds 3] [--only cartpole-8 ...]
    ... --before PATH   # also metta as it was: PATH is a checkout of an earlier commit

Same environment, network size, rollout, epochs and minibatches for all; warm-up first. Each measurement is a process
of its own; rounds alternate between the libraries, and what counts is the median and the ratio of medians. "metta" is
what a user gets who gives no num_workers and sets no OMP_NUM_THREADS, "alone" is metta with num_workers=0 and as many
torch threads as its peers. The peers run their environments in their own process and, as "sb3-subproc" and
"puffer-mp", in others. Writes benchmarks/data/training_speed.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.summary import DATA, conditions, spread, write

SECONDS = 5.0  # measured, after warm-up
CARTPOLE = {"env": "CartPole-v1", "horizon": 128, "update_epochs": 4}
ARENA = {"env": "arena", "num_envs": 8, "horizon": 64, "update_epochs": 1, "minibatch_size": 4096}
# name -> (settings of metta's trainer, the libraries compared)
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "cartpole-8": (
        {**CARTPOLE, "num_envs": 8, "minibatch_size": 256},
        ("metta", "sb3", "sb3-subproc", "puffer", "puffer-mp"),
    ),
    "cartpole-64": (
        {**CARTPOLE, "num_envs": 64, "minibatch_size": 2048},
        ("metta", "alone", "sb3", "puffer", "puffer-mp"),
    ),
    "arena": (ARENA, ("metta", "alone", "sb3", "puffer", "puffer-mp")),
    "arena-lstm": ({**ARENA, "lstm": True}, ("metta", "alone", "puffer", "puffer-mp")),
    "breakout": (
        {"env": "ALE/Breakout-v5", "num_envs": 8, "horizon": 128, "update_epochs": 4, "minibatch_size": 256},
        ("metta", "alone", "sb3", "sb3-subproc"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--before", default="", metavar="PATH", help="the checkout of an earlier commit")
    parser.add_argument("--add", action="store_true", help="to the results on file; else they are replaced")
    parser.add_argument("--measure", nargs=2, metavar=("CASE", "LIBRARY"), help="measure one, here")
    args = parser.parse_args()
    if args.measure:
        case, library = args.measure
        print(json.dumps(measure(CASES[case][0], library)), flush=True)
        os._exit(0)  # PufferLib leaves a thread behind
    began = conditions(threads=max(args.threads), seconds=SECONDS)
    results = [compare(case, threads, args.rounds, args.before) for case in args.only for threads in args.threads]
    path = DATA / "training_speed.json"
    if args.add and path.exists():
        kept = json.loads(path.read_text())
        began, results = kept["conditions"], kept["results"] + results
    write("training_speed", {"conditions": began, "results": results})


def compare(case: str, threads: int, rounds: int, before: str) -> dict[str, Any]:
    libraries = ("before", *CASES[case][1]) if before else CASES[case][1]
    rates: dict[str, list[float]] = {library: [] for library in libraries}
    parameters: dict[str, int] = {}
    for _ in range(rounds):
        for library, values in rates.items():
            command = [sys.executable, __file__, "--measure", case, library]
            environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(threads)}
            if library in ("metta", "before"):
                del environment["OMP_NUM_THREADS"]
            if library == "before":
                environment["PYTHONPATH"] = before
            done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
            measured = json.loads(done.stdout.splitlines()[-1])
            values.append(measured["steps_per_second"])
            parameters[library] = int(measured["parameters"])
    ours = statistics.median(rates["metta"])
    ratios = [f"{ours / statistics.median(rates[peer]):.2f} times {peer}" for peer in rates if peer != "metta"]
    shown = [f"{library} {spread(values)}" for library, values in rates.items()]
    print(f"{case} threads={threads}: {'  '.join(shown)}  metta is {', '.join(ratios)}", flush=True)
    return {"case": case, "threads": threads, "rates": rates, "parameters": parameters}


def measure(settings: dict[str, Any], library: str) -> dict[str, float]:
    if library.startswith("sb3"):
        return measure_sb3(settings, processes=library == "sb3-subproc")
    if library.startswith("puffer"):
        import torch

        from benchmarks import puffer

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        return puffer.measure(settings, SECONDS, processes=2 if library == "puffer-mp" else 1)
    return measure_metta({**settings, "num_workers": 0 if library == "alone" else None})


def timed(step: Callable[[], int]) -> float:
    """Steps per second of repeated calls of `step`, which returns how many it did."""
    step()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        done += step()
    return done / (time.perf_counter() - start)


def measure_metta(settings: dict[str, Any]) -> dict[str, float]:
    from metta.rl.one_run import Trainer
    from metta.rl.train_config import TrainConfig

    trainer = Trainer(TrainConfig(run="speed", total_timesteps=10**9, device="cpu", **settings))

    def epoch() -> int:
        before = trainer.agent_steps
        trainer.run_epoch()
        return trainer.agent_steps - before

    for _ in range(2):
        epoch()
    rate = timed(epoch)
    trainer.close()
    return {
        "steps_per_second": rate,
        "parameters": sum(parameter.numel() for parameter in trainer.agent.parameters()),
    }


def measure_sb3(settings: dict[str, Any], processes: bool) -> dict[str, float]:
    import torch
    from stable_baselines3 import PPO

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    envs, policy, kwargs = sb3_environment(settings, processes)
    batch = envs.num_envs * settings["horizon"]
    model = PPO(
        policy, envs, n_steps=settings["horizon"], batch_size=settings["minibatch_size"],
        n_epochs=settings["update_epochs"], device="cpu", policy_kwargs=kwargs,
    )  # fmt: skip

    def rollout_and_update() -> int:
        model.learn(batch, reset_num_timesteps=False)
        return batch

    rate = timed(rollout_and_update)
    envs.close()
    return {
        "steps_per_second": rate,
        "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
    }


def sb3_environment(settings: dict[str, Any], processes: bool) -> tuple[Any, str, dict[str, Any]]:
    """(vector environment, policy, policy_kwargs): those a user of Stable-Baselines3 would take.

    processes: each environment has one of its own.
    """
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack

    vec_env = SubprocVecEnv if processes else DummyVecEnv
    options: dict[str, Any] = {"n_envs": settings["num_envs"], "seed": 0, "vec_env_cls": vec_env}
    if processes:
        options["vec_env_kwargs"] = {"start_method": "fork"}  # they know the environments registered here
    if settings["env"] == "arena":
        from benchmarks.sb3_mettagrid import MettaVecEnv, policy_settings
        from metta.envs.env_spec import EnvName

        envs = MettaVecEnv(EnvName("arena"), settings["num_envs"], 0)
        return envs, "MlpPolicy", policy_settings(envs)
    if settings["env"].startswith("ALE/"):
        import ale_py
        import gymnasium

        gymnasium.register_envs(ale_py)
        return VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", **options), 4), "CnnPolicy", {}
    return make_vec_env(settings["env"], **options), "MlpPolicy", {}


if __name__ == "__main__":
    main()
