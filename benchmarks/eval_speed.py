"""How fast checkpoints are evaluated: metta beside Stable-Baselines3, batched beside one by one, interleaved.

    PYTHONPATH=. .venv-bench/bin/python benchmarks/eval_speed.py [--rounds 3] [--threads 1] [--only cartpole arena all]

cartpole: 100 episodes of CartPole-v1 with one and the same policy, trained here until it scores 500; SB3's
evaluate_policy gets its weights, and is measured with several n_envs. metta's figure is of PolicyEvaluator.evaluate:
the agent's file is read, and scores and actions are stored; after five seconds of it, when the helping processes that
it calls are there. arena: 24 agents a game, as metta plays them by default, and one game at a time in one process.
all: `metta sim epoch=all` over 50 checkpoints, and 50 calls of `metta sim`.
Writes benchmarks/data/eval_speed.json.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from benchmarks.summary import WORK, conditions, spread, write
from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvName
from metta.envs.make_env import spec_of
from metta.eval.policy_evaluator import PolicyEvaluator
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig
from metta.rl.trainer import train

EPISODES = 100
N_ENVS = (1, 8, 32, 100)  # tried with SB3
ARENA_EPISODES = 20
CHECKPOINTS, CHECKPOINT_EPISODES = 50, 10
WARM_UP_S = 5


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, after calls of each that do not count."""
    for call in calls.values():
        until = time.monotonic() + WARM_UP_S
        while time.monotonic() < until:
            call()
    rows = [{name: seconds(call) for name, call in calls.items()} for _ in range(rounds)]
    return {name: [row[name] for row in rows] for name in calls}


def cartpole(train_dir: Path, rounds: int) -> dict[str, list[float]]:
    """Episodes per second of "metta", of "metta, one process" and of "sb3, N envs"."""
    train(TrainConfig(run="cartpole", env="CartPole-v1", display="none", train_dir=str(train_dir)))
    manager = TinyCheckpointManager("cartpole", train_dir)
    epoch = manager.list_epochs()[-1]
    model = sb3_twin(manager.load_agent(epoch))
    returns = []

    def evaluate_sb3(n_envs: int) -> None:
        envs = make_vec_env("CartPole-v1", n_envs=n_envs, seed=0)
        mean, _ = evaluate_policy(model, envs, EPISODES)
        envs.close()
        returns.append(mean)

    def evaluate(evaluator: PolicyEvaluator) -> None:
        returns.append(evaluator.evaluate("cartpole", epoch, episodes=EPISODES).mean)

    with PolicyEvaluator(train_dir) as helped, PolicyEvaluator(train_dir, num_workers=0) as alone:
        calls: dict[str, Callable[[], object]] = {
            "metta": partial(evaluate, helped),
            "metta, one process": partial(evaluate, alone),
        }
        for n_envs in N_ENVS:
            calls[f"sb3, {n_envs} envs"] = partial(evaluate_sb3, n_envs)
        times = interleaved(calls, rounds)
    assert min(returns) > 490, returns  # episodes of one length, or the comparison means nothing
    return {name: [EPISODES / value for value in values] for name, values in times.items()}


def sb3_twin(agent: Any) -> PPO:
    """A model of SB3 with the agent's policy: its weights, and its normaliser folded into the first layer."""
    model = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    encoder, policy = agent.encoder, model.policy
    with torch.no_grad():
        first, second = policy.mlp_extractor.policy_net[0], policy.mlp_extractor.policy_net[2]
        first.weight.copy_((encoder.normalizer.scale[:, None] * encoder.weight1[0]).T)
        first.bias.copy_(encoder.bias1[0, 0] + encoder.normalizer.shift @ encoder.weight1[0])
        second.weight.copy_(encoder.weight2[0].T)
        second.bias.copy_(encoder.bias2[0, 0])
        policy.action_net.load_state_dict(agent.policy.state_dict())
    return model


def arena(train_dir: Path, rounds: int) -> dict[str, list[float]]:
    """Episodes per second of "batched", of "batched, one process" and of "one at a time"; the agent is a new one."""
    save_new_agent(train_dir, "arena", [0])
    with (
        PolicyEvaluator(train_dir) as helped,
        PolicyEvaluator(train_dir, num_workers=0) as alone,
        PolicyEvaluator(train_dir, num_workers=0, num_envs=1) as one,
    ):
        names = {"batched": helped, "batched, one process": alone, "one at a time": one}
        calls: dict[str, Callable[[], object]] = {
            name: partial(evaluator.evaluate, "arena", 0, episodes=ARENA_EPISODES) for name, evaluator in names.items()
        }
        times = interleaved(calls, rounds)
    return {name: [ARENA_EPISODES / value for value in values] for name, values in times.items()}


def all_epochs(train_dir: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of one `metta sim epoch=all` and of one `metta sim epoch=N` for each; measured once, it takes minutes."""
    del rounds
    save_new_agent(train_dir, "CartPole-v1", range(CHECKPOINTS))

    def sim(epoch: int | str) -> None:
        keys = ["run=CartPole-v1", f"epoch={epoch}", f"episodes={CHECKPOINT_EPISODES}", f"train_dir={train_dir}"]
        command = [sys.executable, "-m", "metta.tools.main", "sim", *keys]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    together = [seconds(lambda: sim("all"))]
    return {"epoch=all": together, "separate calls": [sum(seconds(partial(sim, n)) for n in range(CHECKPOINTS))]}


def save_new_agent(train_dir: Path, env: str, epochs: Any) -> None:
    agent = PolicyAgent(spec_of(EnvName(env)))
    manager = TinyCheckpointManager(env, train_dir)
    for epoch in epochs:
        manager.save_checkpoint(agent, epoch, {"config": {"env": env}, "epoch": epoch, "agent_steps": 0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = {"cartpole": cartpole, "arena": arena, "all": all_epochs}
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=cases, default=list(cases))
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # for metta sim's processes, and for metta's trainer
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # evaluate_policy's, on environments without a Monitor
    WORK.mkdir(exist_ok=True)
    results: dict[str, Any] = {"conditions": conditions(args.threads)}
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        for case in args.only:
            results[case] = values = cases[case](Path(folder) / "train_dir", args.rounds)
            unit = "s" if case == "all" else "episodes/s"
            ours = statistics.median(next(iter(values.values())))
            for name, numbers in values.items():
                ratio = statistics.median(numbers) / ours
                print(f"{case:10}{name:22}{spread(numbers, 1):>26} {unit:12}x{ratio:.2f}", flush=True)
    write("eval_speed", results)


if __name__ == "__main__":
    main()
