"""Collecting experience: T steps of B rows, where a row is one agent of one environment."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent, State
from metta.envs.vec_env import Episode, VecEnv
from metta.processes.shared_arrays import Layout, arrays_over, num_bytes
from metta.rl.learning.random_state import seed_everything
from metta.rl.learning.timers import Timers


@dataclass
class Rollout:
    """One horizon of experience of all rows, `[T, B, ...]`; the memory is reused by the next.

    starts: an episode begins with this observation; bootstrap_values: the value of the final observation where the
    episode was truncated; state: the recurrent state before the first step; last_values `[B]`: after the last.
    """

    observations: Tensor
    actions: Tensor
    values: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    starts: np.ndarray
    bootstrap_values: np.ndarray
    last_values: np.ndarray
    state: State

    @classmethod
    def over(cls, memory: Any, agent: PolicyAgent, horizon: int, rows: int) -> "Rollout":
        """In `memory`, a buffer of `rollout_bytes`; on a GPU the tensors are copies there."""
        device = next(agent.parameters()).device
        arrays: dict[str, Any] = arrays_over(memory, _layout(agent, horizon, rows))
        for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
            arrays[name] = torch.from_numpy(arrays[name]).to(device)
        states = [name for name in arrays if name.startswith("state")]
        state = tuple(torch.from_numpy(arrays.pop(name)).to(device) for name in states)
        return cls(**arrays, state=state)


def rollout_bytes(agent: PolicyAgent, horizon: int, rows: int) -> int:
    return num_bytes(_layout(agent, horizon, rows))


def _layout(agent: PolicyAgent, horizon: int, rows: int) -> Layout:
    env, lead = agent.env, (horizon, rows)
    numbers, flags = (lead, np.dtype(np.float32)), (lead, np.dtype(bool))
    states = [state.cpu().numpy() for state in agent.initial_state(rows)]
    return {
        "observations": ((*lead, *env.observation_shape), np.dtype(env.observation_dtype)),
        "actions": ((*lead, *env.action_shape), np.dtype(env.action_dtype)),
        **dict.fromkeys(("values", "log_probs", "advantages", "returns", "rewards", "bootstrap_values"), numbers),
        **dict.fromkeys(("terminated", "truncated", "starts"), flags),
        "last_values": ((rows,), np.dtype(np.float32)),
        **{f"state{i}": (state.shape, state.dtype) for i, state in enumerate(states)},
    }


class Collector:
    """Steps environments with the agent's sampled actions, and writes what happens into their rows of a rollout.

    Keeps what must survive from one rollout to the next.
    """

    def __init__(self, envs: VecEnv, agent: PolicyAgent, rollout: Rollout, timers: Timers):
        self.envs, self.agent, self.timers = envs, agent, timers
        self.device = rollout.values.device
        first = envs.first_env * envs.num_agents
        self.rows = rows = slice(first, first + envs.batch_size)
        self.state = agent.initial_state(envs.batch_size)
        self.starts = np.ones(envs.batch_size, dtype=bool)
        self.rollout = rollout
        self.params = torch.zeros(*rollout.values[:, rows].shape, agent.distribution.num_params, device=self.device)
        # By step, since to index a tensor costs as much as a small product.
        self._by_step = list(
            zip(
                *(t[:, rows].unbind() for t in (rollout.observations, rollout.actions, rollout.values)),
                self.params.unbind(),
                strict=True,
            )
        )

    @torch.inference_mode()
    def collect(self, seed: int) -> list[Episode]:
        """Play one horizon from where the last one stopped; returns the episodes that ended. seed: of all chance."""
        envs, agent, rollout, rows, timers = self.envs, self.agent, self.rollout, self.rows, self.timers
        seed_everything(seed)
        observed = torch.from_numpy(envs.observations)
        with timers("forward"):
            noise = agent.distribution.noise(len(self.params), envs.batch_size, device=self.device).unbind()
            policy_alone = agent.policy_alone()
        state = self.state
        for kept, before in zip(rollout.state, state, strict=True):
            kept[rows] = before
        episodes = []
        rollout.bootstrap_values[:, rows] = 0
        for t, (observations, actions, values, params) in enumerate(self._by_step):
            with timers("forward"):
                observations.copy_(observed)
                rollout.starts[t, rows] = self.starts
                if policy_alone is None:
                    starts = torch.from_numpy(self.starts).to(self.device) if state else None
                    new_params, new_values, state = agent(observations, state, starts)
                    params.copy_(new_params)
                    values.copy_(new_values)
                else:
                    new_params = policy_alone(observations)
                actions.copy_(agent.distribution.sample(new_params, noise[t]).view_as(actions))
                sent = actions.cpu().numpy()
            with timers("env"):
                episodes += envs.step(sent)
                rollout.rewards[t, rows] = envs.rewards
                rollout.terminated[t, rows] = envs.terminated
                rollout.truncated[t, rows] = envs.truncated
                np.logical_or(envs.terminated, envs.truncated, out=self.starts)
            if envs.truncated.any():
                with timers("forward"):
                    rollout.bootstrap_values[t, rows][envs.truncated] = self._final_values(state)
        with timers("forward"):
            if policy_alone is not None:
                self.params[:], rollout.values[:, rows], _ = agent(rollout.observations[:, rows])
            rollout.log_probs[:, rows] = agent.distribution.score(self.params, rollout.actions[:, rows])[0]
            starts = torch.from_numpy(self.starts).to(self.device) if state else None
            rollout.last_values[rows] = agent(observed.to(self.device), state, starts)[1].cpu().numpy()
        self.state = tuple(s.clone() for s in state)
        return episodes

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
