"""Collecting experience: the agent acts in environments, and what happens is written into a rollout."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent, State
from metta.agent.twin_network import TwinNetwork
from metta.envs.vec_env import Episode, VecEnv
from metta.rl.learning.common_buffers import CommonBuffers
from metta.rl.learning.random_state import seed_everything, seed_torch
from metta.rl.learning.rollout import Rollout
from metta.rl.learning.timers import Timers


class Collector:
    """Steps environments with the agent's sampled actions, and writes what happens into a rollout.

    Keeps what must survive from one rollout to the next.
    """

    def __init__(self, envs: VecEnv, agent: PolicyAgent, rollout: Rollout, timers: Timers, buffers: CommonBuffers):
        self.envs, self.agent, self.timers, self._buffers = envs, agent, timers, buffers
        self.device = rollout.values.device
        self.state = agent.initial_state(envs.batch_size)
        self.starts = np.ones(envs.batch_size, dtype=bool)
        self.rollout = rollout
        self.params = torch.zeros(*rollout.values.shape, agent.distribution.num_params, device=self.device)
        # By step, since to index a tensor costs as much as a small product.
        written = (rollout.observations, rollout.actions, rollout.values, self.params)
        self._by_step = list(zip(*(array.unbind() for array in written), strict=True))

    @torch.inference_mode()
    def collect(self, seed: int) -> list[Episode]:
        """Play one horizon from where the last one stopped; returns the episodes that ended. seed: of all chance."""
        envs, agent, rollout, timers = self.envs, self.agent, self.rollout, self.timers
        seed_everything(seed)
        observed = torch.from_numpy(envs.observations)
        with timers("forward"):
            noise = agent.distribution.noise(len(self.params), envs.batch_size, device=self.device).unbind()
            twin = TwinNetwork.of(agent)
        state = self.state
        for kept, before in zip(rollout.state, state, strict=True):
            kept[:] = before
        rollout.starts[0] = self._starts()
        rollout.bootstrap_values[:] = 0
        episodes = []
        for t, (observations, actions, values, params) in enumerate(self._by_step):
            with timers("forward"):
                observations.copy_(observed)
                if twin is None:
                    new_params, new_values, state = agent(observations, state, self._starts() if state else None)
                    params.copy_(new_params)
                    values.copy_(new_values)
                else:
                    new_params = twin.policy(observations)  # the values follow, of all steps in one call
                actions.copy_(agent.distribution.sample(new_params, noise[t]).view_as(actions))
                sent = actions.cpu().numpy()
            with timers("env"):
                episodes += envs.step(sent)
                if twin is None:  # environments in this process may seed what the agent draws from
                    seed_torch(seed + 1 + t)
                rollout.rewards[t] = envs.rewards
                rollout.terminated[t] = envs.terminated
                rollout.truncated[t] = envs.truncated
                np.logical_or(envs.terminated, envs.truncated, out=self.starts)
            if envs.truncated.any():
                with timers("forward"):
                    rollout.bootstrap_values[t][envs.truncated] = self._final_values(state)
        with timers("forward"):
            if twin is not None:
                self.params[:], rollout.values[:], _ = agent(rollout.observations)
            rollout.log_probs[:] = agent.distribution.score(self.params, rollout.actions)[0]
            done = rollout.terminated[:-1] | rollout.truncated[:-1]
            rollout.starts[1:] = torch.from_numpy(done).to(self.device)
            last_values = agent(observed.to(self.device), state, self._starts() if state else None)[1]
            rollout.last_values[:] = last_values.float().cpu().numpy()
        self.state = tuple(s.clone() for s in state)
        return episodes

    def _starts(self) -> Tensor:
        return torch.from_numpy(self.starts).to(self.device)

    def _final_values(self, state: State) -> np.ndarray:
        """Values of the final observations of the episodes that were truncated at this step."""
        rows = torch.from_numpy(self.envs.truncated.nonzero()[0])
        observations = torch.from_numpy(self.envs.final_observations)[rows].to(self.device)
        rows = rows.to(self.device)
        starts = torch.zeros(len(rows), dtype=torch.bool, device=self.device) if state else None
        with self._buffers.untouched():
            return self.agent(observations, tuple(s[rows] for s in state), starts)[1].float().cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        return {"episodes": self.envs.state_dict(), "recurrent": tuple(s.cpu() for s in self.state)}

    def load_state_dict(self, state: dict[str, Any]) -> list[int]:
        """Go on in the middle of the saved episodes; returns the environments that could not be brought back."""
        fresh = self.envs.load_state_dict(state["episodes"])
        self.state = tuple(s.to(self.device) for s in state["recurrent"])
        np.logical_or(self.envs.terminated, self.envs.truncated, out=self.starts)
        for env_index in fresh:
            rows = slice(env_index * self.envs.num_agents, (env_index + 1) * self.envs.num_agents)
            self.starts[rows] = True
        return fresh
