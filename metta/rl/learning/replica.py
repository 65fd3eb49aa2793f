"""Data-parallel training: the environments and every minibatch are cut into equal shards, each computed apart.

Every process has some of the shards, and a replica of the agent and of its optimiser. It collects its shards' rows of
the rollout, which lies in memory that all have, and computes its shards' gradients of each minibatch; these are added
in the order of the shards, and every replica takes the same step. So the bits depend on the number of shards, and never
on how many processes share them.
"""

import mmap
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from metta.agent.policy_agent import PolicyAgent
from metta.envs.by_value import pack, unpack
from metta.envs.env_group import environments
from metta.envs.vec_env import Episode, EpisodeSeeds, VecEnv
from metta.files import portable_pickle
from metta.machine import keep_freed_memory
from metta.processes.shared_arrays import shares
from metta.processes.worker import Worker
from metta.rl.learning.collector import Collector
from metta.rl.learning.common_buffers import CommonBuffers
from metta.rl.learning.ppo import backward, explained_variance, gae, successor_values, update
from metta.rl.learning.random_state import seed_everything, seed_of
from metta.rl.learning.reward_scaler import RewardScaler
from metta.rl.learning.rollout import Rollout
from metta.rl.learning.summed_gradients import SummedGradients
from metta.rl.learning.timers import Timers
from metta.rl.train_config import RunConfig

PATIENCE = 0.002  # seconds of asking for an answer before sleeping: to wake a sleeping core takes 50 to 300 us


class Replica:
    """What one process does of the training: the shards `shards` of config.num_shards."""

    def __init__(
        self,
        config: RunConfig,
        agent: PolicyAgent,
        shards: range,
        helpers: int,
        memory: Any,
        meet: Callable[[], None],
    ):
        """helpers: processes that step the environments of each shard; memory: a buffer of `memory_bytes`; meet:
        returns when every process has called it."""
        self.config, self.agent = config, agent
        self.optimizer = torch.optim.Adam(agent.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)
        self.timers = Timers()
        keep_freed_memory()
        memory = memoryview(memory)
        rows = config.num_envs * agent.env.num_agents
        size = Rollout.num_bytes(agent, config.horizon, rows)
        self.rollout = Rollout.over(memory[:size], agent, config.horizon, rows)
        self.buffers = CommonBuffers(agent, config.num_shards, memory[size:])
        size += CommonBuffers.memory_bytes(agent, config.num_shards)
        self.gradients = None  # with one shard ppo.backward alone
        if config.num_shards > 1:
            self.gradients = SummedGradients(agent, config.num_shards, shards, memory[size:], meet, self.buffers)
        envs_of = shares(config.num_envs, config.num_shards)
        self.collectors: dict[int, Collector] = {}
        for shard in shards:
            envs = VecEnv(
                agent.env,
                len(envs_of[shard]),
                EpisodeSeeds(config.seed),
                helpers,
                first_env=envs_of[shard].start,
            )
            envs.reset()
            self.collectors[shard] = Collector(envs, agent, self.rollout, self.timers, self.buffers)

    @staticmethod
    def memory_bytes(config: RunConfig, agent: PolicyAgent) -> int:
        rows = config.num_envs * agent.env.num_agents
        summed = SummedGradients.memory_bytes(agent, config.num_shards) if config.num_shards > 1 else 0
        buffers = CommonBuffers.memory_bytes(agent, config.num_shards)
        return Rollout.num_bytes(agent, config.horizon, rows) + buffers + summed

    def collect(self, epoch: int) -> list[Episode]:
        """Write these shards' rows of the rollout; returns the episodes that ended."""
        episodes = []
        self.buffers.begin()
        for shard, collector in self.collectors.items():
            self.buffers.restore()
            episodes += collector.collect(seed_of(self.config.seed, epoch, 1 + shard))
            self.buffers.write(0, shard)
        self.buffers.end()
        return episodes

    def estimate_advantages(self, scale_rewards: RewardScaler) -> float:
        """Write the whole rollout's advantages and returns; returns the critic's explained variance."""
        rollout, config = self.rollout, self.config
        values, terminated, truncated = rollout.values.cpu().numpy(), rollout.terminated, rollout.truncated
        next_values = successor_values(values, rollout.last_values, rollout.bootstrap_values, terminated, truncated)
        done = terminated | truncated
        rewards = scale_rewards(rollout.rewards, done)
        advantages = gae(rewards, values, next_values, done, config.gamma, config.gae_lambda)
        returns = advantages + values
        rollout.advantages.copy_(torch.from_numpy(advantages))
        rollout.returns.copy_(torch.from_numpy(returns))
        return explained_variance(values, returns)

    def learn(self, epoch: int, learning_rate: float) -> dict[str, float]:
        """Learn from the whole rollout, together with the other replicas; returns the losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.buffers.merge(0, self.config.num_shards)
        seed = seed_of(self.config.seed, epoch, 0)
        seed_everything(seed)
        gradients = backward if self.gradients is None else self.gradients.begin(seed)
        order = torch.Generator().manual_seed(seed)
        losses = update(self.agent, self.optimizer, self.rollout, self.config, order, gradients)
        self.buffers.end()
        self.agent.update_normalizers(self.rollout.observations)
        return losses

    def state_dict(self) -> list[dict[str, Any]]:
        """Of each shard's environments."""
        return [collector.state_dict() for collector in self.collectors.values()]

    def load_state_dict(self, optimizer: dict[str, Any], shards: list[dict[str, Any]]) -> int:
        """Go on in the middle of the saved episodes; returns how many environments could not be brought back.

        shards: every shard's state, of which it takes its own.
        """
        self.optimizer.load_state_dict(optimizer)
        return sum(len(collector.load_state_dict(shards[shard])) for shard, collector in self.collectors.items())

    def adopt(self, agent: dict[str, Any], optimizer: dict[str, Any]) -> None:
        """Take over what code outside has changed in the first process's."""
        self.agent.load_state_dict(agent)
        self.optimizer.load_state_dict(optimizer)

    def close(self) -> None:
        for collector in self.collectors.values():
            collector.envs.close()


def start_replica(memory_file: Any, config: RunConfig, agent: PolicyAgent, shards: range, helpers: int) -> Worker:
    """A worker process that holds a Replica."""
    envs_of = shares(config.num_envs, config.num_shards)
    return Worker(
        environments(agent.env.env, range(envs_of[shards[0]].start, envs_of[shards[-1]].stop)),
        memory_file,
        set_up,
        pickled=portable_pickle.dumps((config, agent, shards, helpers)),
        threads=torch.get_num_threads(),
        env=pack(agent.env.env),
    )


def set_up(memory_fd: int, connection: Connection, pickled: bytes, threads: int, env: str | None) -> Replica:
    """The Replica of a worker process."""
    torch.set_num_threads(threads)
    unpack(env)
    config, agent, shards, helpers = portable_pickle.loads(pickled)

    def meet() -> None:
        connection.send_bytes(b"")
        await_message(connection)
        connection.recv_bytes()

    memory = mmap.mmap(memory_fd, Replica.memory_bytes(config, agent))
    return Replica(config, agent, shards, helpers, memory, meet)


def meet_all(workers: list[Worker]) -> None:
    """The first process's `meet`."""
    for worker in workers:
        await_message(worker.connection)
        worker.receive()
    for worker in workers:
        worker.step()


def await_message(connection: Connection) -> None:
    """Ask for a while without sleeping; the caller's `recv_bytes` sleeps after that."""
    until = time.perf_counter() + PATIENCE
    while not connection.poll() and time.perf_counter() < until:
        pass
