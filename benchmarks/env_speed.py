"""Steps per second of the environments alone, with random actions: bare, ours, and Gymnasium's SyncVectorEnv.

    python benchmarks/env_speed.py [rounds]

Everything is measured once in each round, one after the other, so that a neighbour's noise hits all alike. The table
shows medians and ranges over rounds; the ratio is of the best rounds, to the first line of the same environment.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import gymnasium
import numpy as np

from metta.envs.env_spec import EnvName
from metta.envs.make_env import make_env, spec_of
from metta.envs.vec_env import EpisodeSeeds, VecEnv

SECONDS = 1.0  # of each measurement
GYMNASIUM_ID = "CartPole-v1"


def rate(step: Callable[[int], object], steps_per_call: int) -> float:
    """Agent steps per second of `step(i)`."""
    for i in range(20):
        step(i)
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        for i in range(20):
            step(calls + i)
        calls += 20
    return calls * steps_per_call / (time.perf_counter() - began)


def bare(make: Callable[[], gymnasium.Env]) -> float:
    """One environment in a loop, each episode with a seed of its own as ours have."""
    env = make()
    actions = np.random.default_rng(0).integers(0, 2, 1000).tolist()
    env.reset(seed=0)

    def step(i: int) -> None:
        _, _, terminated, truncated, _ = env.step(actions[i % 1000])
        if terminated or truncated:
            env.reset(seed=i)

    return rate(step, 1)


def single() -> float:
    """Our GymnasiumEnv, without the VecEnv around it."""
    env = make_env(EnvName(GYMNASIUM_ID))
    terminated, truncated = np.zeros(1, bool), np.zeros(1, bool)
    env.bind(np.zeros((1, *env.spec.observation_shape), np.float32), np.zeros(1, np.float32), terminated, truncated)
    actions = np.random.default_rng(0).integers(0, 2, (1000, 1)).astype(np.int32)
    env.reset(0)

    def step(i: int) -> None:
        env.step(actions[i % 1000])
        if terminated[0] or truncated[0]:
            env.reset(i)

    return rate(step, 1)


def sync(num_envs: int) -> float:
    envs = gymnasium.make_vec(GYMNASIUM_ID, num_envs=num_envs, vectorization_mode="sync")
    envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, (100, num_envs))
    result = rate(lambda i: envs.step(actions[i % 100]), num_envs)
    envs.close()
    return result


def ours(name: str, num_envs: int, num_workers: int = 0) -> float:
    envs = VecEnv(spec_of(EnvName(name)), num_envs, EpisodeSeeds(0), num_workers)
    envs.reset()
    assert envs.spec.num_actions is not None
    actions = np.random.default_rng(0).integers(0, envs.spec.num_actions, (100, envs.batch_size))
    result = rate(lambda i: envs.step(actions[i % 100]), envs.batch_size)
    envs.close()
    return result


def measurements() -> dict[str, Callable[[], float]]:
    table: dict[str, Callable[[], float]] = {
        f"{GYMNASIUM_ID} bare class": lambda: bare(lambda: gymnasium.make(GYMNASIUM_ID).unwrapped),
        f"{GYMNASIUM_ID} gymnasium.make": lambda: bare(lambda: gymnasium.make(GYMNASIUM_ID)),
        f"{GYMNASIUM_ID} GymnasiumEnv": single,
    }
    for num_envs in (8, 64):
        table[f"{GYMNASIUM_ID} SyncVectorEnv, {num_envs} envs"] = partial(sync, num_envs)
        table[f"{GYMNASIUM_ID} VecEnv, {num_envs} envs"] = partial(ours, GYMNASIUM_ID, num_envs)
    for name in ("arena", "navigation"):
        for workers in (0, 1):
            table[f"{name} VecEnv, 8 envs, {workers} workers"] = partial(ours, name, 8, workers)
    return table


def main(rounds: int) -> None:
    table = measurements()
    results: dict[str, list[float]] = {label: [] for label in table}
    for _ in range(rounds):
        for label, measure in table.items():
            results[label].append(measure())
    for label, rates in results.items():
        first = next(other for other in table if other.split()[0] == label.split()[0])
        ratio = max(rates) / max(results[first])
        print(f"{label:40} {median(rates):9,.0f}/s  ({min(rates):,.0f} to {max(rates):,.0f})  x{ratio:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
