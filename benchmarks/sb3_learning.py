"""Trains Stable-Baselines3's PPO on one environment with one seed, evaluates it, appends one line to a results file.

    PYTHONPATH=. .venv-bench/bin/python benchmarks/sb3_learning.py Pendulum-v1 --seed 0 --out sb3.jsonl

It runs in its own virtual environment (benchmarks/requirements.txt), so that what users install stays free of peers.
`--settings zoo` takes the settings of RL Baselines3 Zoo, `--settings default` those that PPO has when nothing is given;
whichever scores better is the one to compare with. arena and navigation are metta's own recipes, played through
sb3_mettagrid.py: `--settings own` are those chosen there, for the zoo has none. Environments and steps are ladder.py's.
A line that the results file already holds is not trained again.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.ladder import RUNGS, Rung

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from metta.envs.env_spec import EnvName

EVAL_EPISODES = 100
EVAL_SEED = 1_000_000  # far from the training seeds, and the same for every agent
EVAL_ENVS = 10
PACKAGES = ("stable-baselines3", "torch", "gymnasium", "numpy", "minatar", "mettagrid")
METTAGRID = ("navigation", "arena")

# Settings by environment, of hyperparams/ppo.yml at https://github.com/DLR-RM/rl-baselines3-zoo/tree/22e3ff2, which is
# also rl_zoo3 2.9.2's. A number in "linear" is a start value that falls linearly to 0 over the training; "normalize"
# means VecNormalize with the same gamma.
ZOO: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "n_envs": 8, "n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98,
        "ent_coef": 0.0, "linear": {"learning_rate": 1e-3, "clip_range": 0.2},
    },
    "Pendulum-v1": {
        "n_envs": 4, "n_steps": 1024, "n_epochs": 10, "gae_lambda": 0.95, "gamma": 0.9, "ent_coef": 0.0,
        "learning_rate": 1e-3, "clip_range": 0.2, "use_sde": True, "sde_sample_freq": 4,
    },
    "LunarLander-v3": {
        "n_envs": 16, "n_steps": 1024, "batch_size": 64, "n_epochs": 4, "gae_lambda": 0.98, "gamma": 0.999,
        "ent_coef": 0.01,
    },
    "Hopper-v5": {  # the zoo's v4
        "normalize": True, "n_envs": 1, "n_steps": 512, "batch_size": 32, "n_epochs": 5, "gae_lambda": 0.99,
        "gamma": 0.999, "learning_rate": 9.80828e-05, "ent_coef": 0.00229519, "clip_range": 0.2,
        "max_grad_norm": 0.7, "vf_coef": 0.835671,
        "policy_kwargs": {
            "log_std_init": -2, "ortho_init": False, "activation_fn": "ReLU",
            "net_arch": {"pi": [256, 256], "vf": [256, 256]},
        },
    },
    "MinAtar": {  # the zoo's Atari settings; it has none for MinAtar
        "n_envs": 8, "n_steps": 128, "batch_size": 256, "n_epochs": 4, "vf_coef": 0.5, "ent_coef": 0.01, "gamma": 0.99,
        "linear": {"learning_rate": 2.5e-4, "clip_range": 0.1},
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=RUNGS)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="results file, JSON lines, appended to")
    parser.add_argument("--settings", choices=("zoo", "default", "own"), help="zoo, or own for MettaGrid")
    parser.add_argument("--steps", type=int, help="environment steps (agent steps), if not those of the table")
    parser.add_argument("--eval-episodes", type=int, default=EVAL_EPISODES)
    args = parser.parse_args()
    rung = RUNGS[args.env]
    settings = args.settings or ("own" if rung.env in METTAGRID else "zoo")
    steps = args.steps or rung.steps
    key: dict[str, Any] = {
        "lib": "stable-baselines3",
        "env": args.env,
        "seed": args.seed,
        "settings": settings,
        "asked_steps": steps,
    }
    if rung.env in METTAGRID:  # the same game by name is another one when its settings have changed
        from benchmarks.sb3_mettagrid import env_settings

        key["env_settings"] = env_settings(metta_name(rung))
    if is_recorded(args.out, key):
        print(f"{args.out} has {key} already")
        return
    result = key | measure(rung, args.seed, settings, steps, args.eval_episodes)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print({name: value for name, value in result.items() if name != "returns"})


def is_recorded(results: Path, key: dict[str, Any]) -> bool:
    lines = results.read_text().splitlines() if results.exists() else []
    return any(key.items() <= json.loads(line).items() for line in lines)


def measure(rung: Rung, seed: int, settings: str, steps: int, eval_episodes: int) -> dict[str, Any]:
    """Trains and evaluates. Means are over episodes; an episode of several agents counts with its agents' mean."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    chosen = settings_for(rung.env, settings)
    ppo_settings = dict(chosen)
    train_envs = make_envs(rung, ppo_settings.pop("n_envs"), seed)
    model = build(rung.env, train_envs, seed, ppo_settings)
    start = time.perf_counter()
    model.learn(steps)
    seconds = time.perf_counter() - start
    train_envs.close()
    start = time.perf_counter()
    returns = {
        "sampled": evaluate(rung, model, eval_episodes, deterministic=False),
        "random": evaluate(rung, None, eval_episodes, deterministic=False),
    }
    if rung.env not in METTAGRID:  # there the most likely action walks into a wall and stays, as with every agent
        returns["deterministic"] = evaluate(rung, model, eval_episodes, deterministic=True)
    return {
        "steps": model.num_timesteps,
        "hyperparameters": chosen,
        "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
        "mean": {name: float(np.mean(values)) for name, values in returns.items()},
        "std": {name: float(np.std(values, ddof=1)) for name, values in returns.items()},
        "seconds": round(seconds, 1),
        "eval_seconds": round(time.perf_counter() - start, 1),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "returns": {name: [round(float(value), 4) for value in values] for name, values in returns.items()},
    }


def settings_for(env: str, settings: str) -> dict[str, Any]:
    if env in METTAGRID:
        from benchmarks.sb3_mettagrid import SETTINGS

        return SETTINGS[env] if settings == "own" else {"n_envs": SETTINGS[env]["n_envs"]}
    return ZOO[env.partition("/")[0]] if settings == "zoo" else {"n_envs": 1}


def metta_name(rung: Rung) -> EnvName:
    from metta.envs.env_spec import EnvName

    return EnvName(rung.env, rung.settings)


def make_envs(rung: Rung, num_envs: int, seed: int) -> VecEnv:
    if rung.env in METTAGRID:
        from benchmarks.sb3_mettagrid import MettaVecEnv

        return MettaVecEnv(metta_name(rung), num_envs, seed)
    import gymnasium
    from stable_baselines3.common.env_util import make_vec_env

    if rung.env.startswith("MinAtar/") and rung.env not in gymnasium.registry:
        from minatar.gym import register_envs

        register_envs()
    return make_vec_env(rung.env, n_envs=num_envs, seed=seed, env_kwargs=rung.settings)


def build(env: str, envs: VecEnv, seed: int, settings: dict[str, Any]) -> Any:
    """The PPO model, with the network that is customary for the kind of observation."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecNormalize
    from torch import nn

    settings = dict(settings)
    for name, first in settings.pop("linear", {}).items():
        settings[name] = lambda remaining, first=first: remaining * first
    policy_kwargs: dict[str, Any] = dict(settings.pop("policy_kwargs", {}))
    if "activation_fn" in policy_kwargs:
        policy_kwargs["activation_fn"] = getattr(nn, policy_kwargs["activation_fn"])
    if settings.pop("normalize", False):
        envs = VecNormalize(envs, gamma=settings["gamma"])
    if env in METTAGRID:
        from benchmarks.sb3_mettagrid import policy_settings

        policy_kwargs = policy_settings(envs)
    elif env.startswith("MinAtar/"):
        policy_kwargs = {"features_extractor_class": minatar_cnn_class(), "net_arch": []}
    return PPO("MlpPolicy", envs, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **settings)


def minatar_cnn_class() -> type:
    """The network of the MinAtar paper (Young and Tian 2019): 16 3x3 filters, then 128 hidden units."""
    import torch
    from gymnasium import spaces
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from torch import nn

    class MinAtarCNN(BaseFeaturesExtractor):
        def __init__(self, observation_space: spaces.Box):
            super().__init__(observation_space, features_dim=128)
            height, width, channels = observation_space.shape
            self.layers = nn.Sequential(
                nn.Conv2d(channels, 16, kernel_size=3),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(16 * (height - 2) * (width - 2), 128),
                nn.ReLU(),
            )

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            """observations [B, height, width, channels], 0 or 1 -> [B, 128]."""
            return self.layers(observations.permute(0, 3, 1, 2))

    return MinAtarCNN


def evaluate(rung: Rung, model: Any | None, episodes: int, deterministic: bool) -> list[float]:
    """Returns of fresh episodes, the same ones for every model; a model of None acts at random."""
    if rung.env in METTAGRID:
        from benchmarks.sb3_mettagrid import play

        return play(metta_name(rung), model, episodes, EVAL_SEED, deterministic)
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    envs = make_envs(rung, min(EVAL_ENVS, episodes), EVAL_SEED)
    envs.action_space.seed(EVAL_SEED)
    trained_on = None if model is None else model.get_vec_normalize_env()
    if trained_on is not None:
        envs = VecNormalize(envs, training=False, norm_reward=False)
        envs.obs_rms = trained_on.obs_rms
    player = model or RandomModel(envs)
    returns, _ = evaluate_policy(player, envs, episodes, deterministic=deterministic, return_episode_rewards=True)
    envs.close()
    assert isinstance(returns, list)
    return returns


class RandomModel:
    """Acts at random, with the one method that evaluate_policy needs."""

    def __init__(self, envs: VecEnv):
        self.envs = envs

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        import numpy as np

        return np.stack([self.envs.action_space.sample() for _ in range(len(observation))]), None


if __name__ == "__main__":
    main()
