"""PufferLib's training loop on a CPU: serial or through its own worker processes.

The wheel's kernel for the advantages wants CUDA's libraries, so a numpy one stands in for it (the recursion of Espeholt
et al. 2018, arXiv 1802.01561, equation 1, as PufferLib's kernel has it). The time spent in it is not counted.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

with contextlib.redirect_stderr(io.StringIO()):
    import pufferlib
    import pufferlib.emulation
    import pufferlib.models
    import pufferlib.pufferl
    import pufferlib.vector

from benchmarks.sb3_mettagrid import HIDDEN_SIZE, DenseTokenExtractor
from metta.envs.env_spec import EnvName
from metta.envs.make_env import spec_of
from metta.envs.vec_env import EpisodeSeeds, VecEnv


class Advantages:
    """Stands in for `pufferlib.pufferl.compute_puff_advantage`, and counts its own seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(
        self,
        values: torch.Tensor,
        rewards: torch.Tensor,
        terminals: torch.Tensor,
        ratio: torch.Tensor,
        advantages: torch.Tensor,
        gamma: float,
        gae_lambda: float,
        rho_clip: float,
        c_clip: float,
    ) -> torch.Tensor:
        start = time.perf_counter()
        v, r, done, ratios = (x.detach().numpy().T for x in (values, rewards, terminals, ratio))
        rho, c, going_on = np.minimum(ratios, rho_clip), np.minimum(ratios, c_clip), 1 - done
        result, last = np.zeros_like(v), np.zeros(v.shape[1], np.float32)
        for t in reversed(range(len(v) - 1)):
            delta = rho[t] * (r[t + 1] + gamma * v[t + 1] * going_on[t + 1] - v[t])
            result[t] = last = delta + gamma * gae_lambda * c[t] * last * going_on[t + 1]
        advantages.copy_(torch.from_numpy(result.T))
        self.seconds += time.perf_counter() - start
        return advantages


class MettaEnv(pufferlib.PufferEnv):
    """metta's `VecEnv` as one environment of PufferLib's own kind, whose agents are all rows."""

    def __init__(self, name: str, num_envs: int, buf: Any = None, seed: int = 0):
        self.envs = VecEnv(spec_of(EnvName(name)), num_envs, EpisodeSeeds(seed))
        spec = self.envs.spec
        assert spec.num_actions is not None
        self.tokens = spec.tokens
        self.single_observation_space = gymnasium.spaces.Box(0, 255, spec.observation_shape, np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(spec.num_actions)
        self.num_agents = self.envs.batch_size
        super().__init__(buf)

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, list[Any]]:
        self.observations[:] = self.envs.reset()
        return self.observations, []

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        self.envs.step(actions)
        self.observations[:] = self.envs.observations
        self.rewards[:] = self.envs.rewards
        self.terminals[:] = self.envs.terminated
        self.truncations[:] = self.envs.truncated
        return self.observations, self.rewards, self.terminals, self.truncations, []

    def close(self) -> None:
        self.envs.close()


class TokenPolicy(nn.Module):
    """The dense network over a grid of tokens that Stable-Baselines3 gets too (sb3_mettagrid.py)."""

    is_continuous = False

    def __init__(self, envs: Any):
        super().__init__()
        self.hidden_size = HIDDEN_SIZE
        self.encoder = DenseTokenExtractor(envs.single_observation_space, envs.driver_env.tokens)
        self.decoder = nn.Linear(HIDDEN_SIZE, int(envs.single_action_space.n))
        self.value = nn.Linear(HIDDEN_SIZE, 1)

    def encode_observations(self, observations: torch.Tensor, state: Any = None) -> torch.Tensor:
        return self.encoder(observations)

    def decode_actions(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.decoder(hidden), self.value(hidden)

    def forward(self, observations: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        return self.decode_actions(self.encode_observations(observations))

    forward_eval = forward


class TwinPolicy(nn.Module):
    """Separate actor and critic of two tanh layers of 64, as in CleanRL's ppo.py."""

    is_continuous = False
    hidden_size = 64

    def __init__(self, inputs: int, actions: int):
        super().__init__()
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))
            for outputs in (actions, 1)
        )

    def forward(self, observations: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        x = observations.float()
        return self.actor(x), self.critic(x)

    forward_eval = forward


def make_trainer(settings: dict[str, Any], processes: int) -> tuple[Any, nn.Module]:
    """PuffeRL with the settings of a case of training_speed.py, and its policy.

    processes: with more than 1 the environments are theirs, and PuffeRL acts for one half while the other one steps.
    """
    name, num_envs, lstm = settings["env"], settings["num_envs"], settings.get("lstm", False)
    vectorisation: dict[str, Any] = {"backend": pufferlib.vector.Serial}
    if processes > 1:
        vectorisation = {
            "backend": pufferlib.vector.Multiprocessing, "num_workers": processes, "batch_size": "auto",
            "overwork": True,
        }  # fmt: skip
    policy: nn.Module
    if name == "arena":
        envs: Any = pufferlib.vector.make(
            MettaEnv, env_args=[name, num_envs // processes], num_envs=processes, **vectorisation
        )
        policy = TokenPolicy(envs)
    else:
        envs = pufferlib.vector.make(
            lambda buf=None, seed=0: pufferlib.emulation.GymnasiumPufferEnv(
                env_creator=lambda: gymnasium.make(name), buf=buf, seed=seed
            ),
            num_envs=num_envs,
            **vectorisation,
        )
        policy = TwinPolicy(int(np.prod(envs.single_observation_space.shape)), int(envs.single_action_space.n))
    if lstm:
        policy = pufferlib.models.LSTMWrapper(envs, policy, HIDDEN_SIZE, HIDDEN_SIZE)
    config = {
        "env": settings["env"], "seed": 0, "torch_deterministic": True, "device": "cpu", "cpu_offload": False,
        "batch_size": "auto", "bptt_horizon": settings["horizon"], "use_rnn": lstm, "compile": False,
        "minibatch_size": settings["minibatch_size"], "max_minibatch_size": settings["minibatch_size"],
        "update_epochs": settings["update_epochs"], "optimizer": "adam", "learning_rate": 1e-3, "anneal_lr": True,
        "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_eps": 1e-5, "precision": "float32", "total_timesteps": 10**9,
        "prio_beta0": 0.2, "prio_alpha": 0.8, "clip_coef": 0.2, "vf_clip_coef": 0.2, "vf_coef": 0.5, "ent_coef": 0.01,
        "max_grad_norm": 0.5, "gamma": 0.99, "gae_lambda": 0.95, "vtrace_rho_clip": 1.0, "vtrace_c_clip": 1.0,
        "checkpoint_interval": 10**9, "data_dir": os.devnull,
    }  # fmt: skip
    pufferlib.pufferl.PuffeRL.print_dashboard = lambda *args, **kwargs: None
    pufferlib.pufferl.PuffeRL.save_checkpoint = lambda *args, **kwargs: None
    return pufferlib.pufferl.PuffeRL(config, envs, policy), policy


def measure(settings: dict[str, Any], seconds: float, processes: int) -> dict[str, float]:
    """Agent steps per second of rollouts and updates, and the number of parameters."""
    advantages = pufferlib.pufferl.compute_puff_advantage = Advantages()
    trainer, policy = make_trainer(settings, processes)
    for _ in range(2):
        trainer.evaluate()
        trainer.train()
    start, done, advantages.seconds = time.perf_counter(), trainer.global_step, 0.0
    while time.perf_counter() - start < seconds:
        trainer.evaluate()
        trainer.train()
    elapsed = time.perf_counter() - start - advantages.seconds
    trainer.vecenv.close()
    return {
        "steps_per_second": (trainer.global_step - done) / elapsed,
        "parameters": sum(parameter.numel() for parameter in policy.parameters()),
    }
