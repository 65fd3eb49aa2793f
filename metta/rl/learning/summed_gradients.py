"""A minibatch's gradients as the sum of its shards', whichever processes computed them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent
from metta.agent.twin_network import TwinNetwork
from metta.rl.learning.common_buffers import CommonBuffers
from metta.rl.learning.ppo import Statistics, backward
from metta.rl.learning.random_state import seed_everything
from metta.rl.learning.rollout import Batch
from metta.rl.train_config import RunConfig


class SummedGradients:
    """Takes the place of `ppo.backward`; the gradients of all shards meet in memory that all processes share."""

    def __init__(
        self,
        agent: PolicyAgent,
        num_shards: int,
        shards: range,
        memory: Any,
        meet: Callable[[], None],
        buffers: CommonBuffers,
    ):
        self.num_shards, self.shards, self.meet, self._buffers = num_shards, shards, meet, buffers
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
        return sum(parameter.numel() for parameter in agent.parameters()) + len(Statistics._fields)

    def begin(self, seed: int) -> "SummedGradients":
        """seed: of what agents draw by themselves, in dropout for one."""
        self._seed, self._turn = seed, 0
        return self

    def __call__(
        self, agent: PolicyAgent, batch: Batch, index: Tensor, config: RunConfig, twin: TwinNetwork | None = None
    ) -> Statistics:
        self._turn += 1
        turn = self._turn % 2
        for shard in self.shards:
            seed_everything(self._seed + self._turn * self.num_shards + shard)
            for parameter in self._parameters:
                parameter.grad = None
            self._buffers.restore()
            statistics = backward(agent, batch, index, config, twin, shard, self.num_shards)
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
            torch._foreach_copy_(self._views[turn][shard], [*gradients, torch.stack(statistics)])
            self._buffers.write(turn, shard)
        self.meet()
        self._buffers.merge(turn, min(self.num_shards, len(index)))  # the last ones may have had no rows
        torch.add(self._apart[turn, 0], self._apart[turn, 1], out=self._sum)
        for shard in range(2, self.num_shards):
            self._sum += self._apart[turn, shard]
        *gradients, summed_statistics = self._summed
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        return Statistics(*summed_statistics.clone())

    def _cut(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat tensor: one of each parameter's shape, and the statistics."""
        sizes = [parameter.numel() for parameter in self._parameters]
        *gradients, stats = flat.split([*sizes, len(Statistics._fields)])
        return [g.view(p.shape) for g, p in zip(gradients, self._parameters, strict=True)] + [stats]
