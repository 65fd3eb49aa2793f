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
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_group import environments, gymnasium_spec_bytes, register
from metta.envs.vec_env import Episode, EpisodeSeeds, VecEnv
from metta.files import portable_pickle
from metta.machine import keep_freed_memory
from metta.processes.shared_arrays import shares
from metta.processes.worker import Worker
from metta.rl.learning.adam import Adam
from metta.rl.learning.ppo import STATS, Batch, PPOConfig, backward, update
from metta.rl.learning.random_state import seed_everything, seed_of
from metta.rl.learning.rollout import Collector, Rollout, rollout_bytes
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
        """helpers: processes that step the environments of each shard; memory: a buffer of
        `memory_bytes`; meet: returns when every process has called it."""
        self.config, self.agent = config, agent
        self.optimizer = Adam(list(agent.parameters()), lr=config.learning_rate)
        self.ppo = PPOConfig(**{name: getattr(config, name) for name in PPOConfig.__dataclass_fields__})
        self.timers = Timers()
        keep_freed_memory()
        memory = memoryview(memory)
        rows = config.num_envs * agent.env.num_agents
        size = rollout_bytes(agent, config.horizon, rows)
        self.rollout = Rollout.over(memory[:size], agent, config.horizon, rows)
        self.gradients = None  # with one shard ppo.backward alone
        if config.num_shards > 1:
            self.gradients = SummedGradients(agent, config.num_shards, shards, memory[size:], meet)
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
            self.collectors[shard] = Collector(envs, agent, self.rollout, self.timers)

    @staticmethod
    def memory_bytes(config: RunConfig, agent: PolicyAgent) -> int:
        rows = config.num_envs * agent.env.num_agents
        summed = SummedGradients.memory_bytes(agent, config.num_shards) if config.num_shards > 1 else 0
        return rollout_bytes(agent, config.horizon, rows) + summed

    def collect(self, epoch: int) -> list[Episode]:
        """Write these shards' rows of the rollout; returns the episodes that ended."""
        return [
            episode
            for shard, collector in self.collectors.items()
            for episode in collector.collect(seed_of(self.config.seed, epoch, 1 + shard))
        ]

    def learn(self, epoch: int, learning_rate: float) -> dict[str, float]:
        """Learn from the whole rollout, together with the other replicas; returns the losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        seed = seed_of(self.config.seed, epoch, 0)
        seed_everything(seed)
        rollout = self.rollout
        batch = Batch(
            observations=rollout.observations,
            starts=torch.from_numpy(rollout.starts).to(rollout.values.device),
            actions=rollout.actions,
            log_probs=rollout.log_probs,
            values=rollout.values,
            advantages=rollout.advantages,
            returns=rollout.returns,
            state=rollout.state,
        )
        gradients = backward if self.gradients is None else self.gradients.begin(seed)
        order = torch.Generator().manual_seed(seed)
        losses = update(self.agent, self.optimizer, batch, self.ppo, order, gradients)
        self.agent.update_normalizers(rollout.observations)
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

    def close(self) -> None:
        for collector in self.collectors.values():
            collector.envs.close()


class SummedGradients:
    """In place of `ppo.backward`: a minibatch's gradients as the sum of its shards', whoever computed them."""

    def __init__(self, agent: PolicyAgent, num_shards: int, shards: range, memory: Any, meet: Callable[[], None]):
        self.num_shards, self.shards, self.meet = num_shards, shards, meet
        self._parameters = list(agent.parameters())
        device = self._parameters[0].device
        size = self._size(agent)
        # Two minibatches' worth: who is ahead writes one while another still adds up the other.
        self._apart = torch.frombuffer(memory, dtype=torch.float32)[: 2 * num_shards * size].to(device)
        self._apart = self._apart.view(2, num_shards, size)
        self._views = [[self._cut(shard) for shard in minibatch] for minibatch in self._apart]
        self._sum = torch.zeros(size, device=device)
        self._summed = self._cut(self._sum)
        self._seed = self._turn = 0

    @staticmethod
    def memory_bytes(agent: PolicyAgent, num_shards: int) -> int:
        return 4 * 2 * num_shards * SummedGradients._size(agent)

    @staticmethod
    def _size(agent: PolicyAgent) -> int:
        """Numbers of one shard: the gradients, and the statistics."""
        return sum(parameter.numel() for parameter in agent.parameters()) + len(STATS)

    def begin(self, seed: int) -> "SummedGradients":
        """seed: of what agents draw by themselves, in dropout for one."""
        self._seed, self._turn = seed, 0
        return self

    def __call__(self, agent: PolicyAgent, batch: Batch, index: Tensor, config: PPOConfig) -> Tensor:
        self._turn += 1
        turn = self._turn % 2
        for shard in self.shards:
            seed_everything(self._seed + self._turn * self.num_shards + shard)
            for parameter in self._parameters:
                parameter.grad = None
            stats = backward(agent, batch, index, config, shard, self.num_shards)
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
            torch._foreach_copy_(self._views[turn][shard], [*gradients, stats])
        self.meet()
        torch.add(self._apart[turn, 0], self._apart[turn, 1], out=self._sum)
        for shard in range(2, self.num_shards):
            self._sum += self._apart[turn, shard]
        for parameter, gradient in zip(self._parameters, self._summed, strict=False):
            parameter.grad = gradient
        return self._summed[-1]

    def _cut(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat tensor: one of each parameter's shape, and the statistics."""
        sizes = [parameter.numel() for parameter in self._parameters]
        *gradients, stats = flat.split([*sizes, len(STATS)])
        return [g.view(p.shape) for g, p in zip(gradients, self._parameters, strict=True)] + [stats]


def start_replica(memory_file: Any, config: RunConfig, agent: PolicyAgent, shards: range, helpers: int) -> Worker:
    """A worker process that holds a Replica."""
    envs_of = shares(config.num_envs, config.num_shards)
    return Worker(
        environments(agent.env.env, range(envs_of[shards[0]].start, envs_of[shards[-1]].stop)),
        memory_file,
        set_up,
        config=config,
        agent=portable_pickle.dumps(agent),
        shards=shards,
        helpers=helpers,
        threads=torch.get_num_threads(),
        gymnasium_spec=gymnasium_spec_bytes(agent.env.env),
    )


def set_up(
    memory_fd: int,
    connection: Connection,
    config: RunConfig,
    agent: bytes,
    shards: range,
    helpers: int,
    threads: int,
    gymnasium_spec: bytes | None,
) -> Replica:
    """The Replica of a worker process."""
    torch.set_num_threads(threads)
    register(gymnasium_spec)
    copy: PolicyAgent = portable_pickle.loads(agent)

    def meet() -> None:
        connection.send_bytes(b"")
        await_message(connection)
        connection.recv_bytes()

    memory = mmap.mmap(memory_fd, Replica.memory_bytes(config, copy))
    return Replica(config, copy, shards, helpers, memory, meet)


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
