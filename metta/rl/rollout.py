"""Collecting experience: T steps of B rows, where a row is one agent of one environment."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent, State
from metta.envs.vec_env import Episode, VecEnv
from metta.rl.timers import Timers


@dataclass
class Rollout:
    """One horizon of experience, `[T, B, ...]`; the memory is reused by the next.

    starts: an episode begins with this observation; bootstrap_values: the value of the final observation where the
    episode was truncated; state: the recurrent state before the first step; last_values `[B]`: after the last.
    """

    observations: Tensor
    params: Tensor
    actions: Tensor
    values: Tensor
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    starts: np.ndarray
    bootstrap_values: np.ndarray
    last_values: np.ndarray
    state: State = ()
    episodes: list[Episode] = field(default_factory=list)


class Collector:
    """Steps the environments with the agent's sampled actions; keeps what must survive from one rollout to the next."""

    def __init__(self, envs: VecEnv, agent: PolicyAgent, horizon: int, timers: Timers):
        self.envs, self.agent, self.timers = envs, agent, timers
        device = next(agent.parameters()).device
        rows, spec = envs.batch_size, envs.spec
        observation_dtype = torch.from_numpy(envs.observations[:0]).dtype
        discrete = spec.num_actions is not None
        self.device = device
        self.state = agent.initial_state(rows)
        self.starts = np.ones(rows, dtype=bool)
        self.rollout = Rollout(
            observations=torch.zeros(horizon, rows, *spec.observation_shape, dtype=observation_dtype, device=device),
            params=torch.zeros(horizon, rows, agent.distribution.num_params, device=device),
            actions=torch.zeros(
                horizon, rows, *spec.action_shape, dtype=torch.int64 if discrete else torch.float32, device=device
            ),
            values=torch.zeros(horizon, rows, device=device),
            rewards=np.zeros((horizon, rows), dtype=np.float32),
            terminated=np.zeros((horizon, rows), dtype=bool),
            truncated=np.zeros((horizon, rows), dtype=bool),
            starts=np.zeros((horizon, rows), dtype=bool),
            bootstrap_values=np.zeros((horizon, rows), dtype=np.float32),
            last_values=np.zeros(rows, dtype=np.float32),
        )

    @torch.inference_mode()
    def collect(self) -> Rollout:
        """Play one horizon from where the last one stopped."""
        envs, agent, rollout, timers = self.envs, self.agent, self.rollout, self.timers
        horizon, rows = rollout.rewards.shape
        observed = torch.from_numpy(envs.observations)
        noise = agent.distribution.noise(horizon, rows, device=self.device)
        state = rollout.state = self.state
        rollout.episodes = []
        rollout.bootstrap_values.fill(0)
        for t in range(horizon):
            with timers("copy"):
                rollout.observations[t].copy_(observed)
                rollout.starts[t] = self.starts
            with timers("forward"):
                starts = torch.from_numpy(rollout.starts[t]).to(self.device) if state else None
                params, values, state = agent(rollout.observations[t], state, starts)
                actions = agent.distribution.sample(params, noise[t])
            with timers("copy"):
                rollout.params[t], rollout.values[t] = params, values
                rollout.actions[t] = actions.view_as(rollout.actions[t])
                sent = rollout.actions[t].cpu().numpy()
            with timers("env"):
                rollout.episodes += envs.step(sent)
            with timers("copy"):
                rollout.rewards[t] = envs.rewards
                rollout.terminated[t] = envs.terminated
                rollout.truncated[t] = envs.truncated
                np.logical_or(envs.terminated, envs.truncated, out=self.starts)
            if envs.truncated.any():
                with timers("forward"):
                    rollout.bootstrap_values[t, envs.truncated] = self._final_values(state)
        with timers("forward"):
            starts = torch.from_numpy(self.starts).to(self.device) if state else None
            rollout.last_values[:] = agent(observed.to(self.device), state, starts)[1].cpu().numpy()
        self.state = tuple(s.clone() for s in state)
        return rollout

    def _final_values(self, state: State) -> np.ndarray:
        """Values of the final observations of the episodes that were truncated at this step."""
        rows = torch.from_numpy(self.envs.truncated.nonzero()[0])
        observations = torch.from_numpy(self.envs.final_observations)[rows].to(self.device)
        rows = rows.to(self.device)
        return self.agent(observations, tuple(s[rows] for s in state))[1].cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        return {"episodes": self.envs.state_dict(), "recurrent": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> list[int]:
        """Go on in the middle of the saved episodes; returns the environments that could not be brought back."""
        fresh = self.envs.load_state_dict(state["episodes"])
        self.state = tuple(s.to(self.device) for s in state["recurrent"])
        np.logical_or(self.envs.terminated, self.envs.truncated, out=self.starts)
        for env_index in fresh:
            rows = slice(env_index * self.envs.num_agents, (env_index + 1) * self.envs.num_agents)
            self.starts[rows] = True
        return fresh


class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return, so that one learning rate fits all.

    Engstrom et al. 2020 (arXiv 2005.12729, section 3); the statistics are training's own and never touch a score.
    """

    def __init__(self, rows: int, gamma: float, clip: float = 10.0):
        self.gamma, self.clip = gamma, clip
        self.discounted = np.zeros(rows)
        self.count, self.mean, self.m2 = 0, 0.0, 0.0

    def __call__(self, rewards: np.ndarray, done: np.ndarray) -> np.ndarray:
        """Take a rollout `[T, B]` into the statistics and return its rewards scaled, float32."""
        history = np.empty(rewards.shape)
        for t in range(len(rewards)):
            self.discounted *= self.gamma
            self.discounted += rewards[t]
            history[t] = self.discounted
            self.discounted[done[t]] = 0
        n, total = history.size, self.count + history.size
        delta = history.mean() - self.mean
        self.m2 += history.var() * n + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count = total
        scale = 1 / np.sqrt(self.m2 / self.count + 1e-8)
        return np.clip(rewards * scale, -self.clip, self.clip).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {name: np.copy(getattr(self, name)) for name in ("discounted", "count", "mean", "m2")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discounted = state["discounted"].copy()
        self.count, self.mean, self.m2 = int(state["count"]), float(state["mean"]), float(state["m2"])
