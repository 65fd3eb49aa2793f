"""A minibatch's gradients as the sum of its shards', whichever processes computed them."""

import torch
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent
from metta.agent.twin_network import TwinNetwork
from metta.processes.exchange import Exchange
from metta.rl.learning.common_buffers import CommonBuffers
from metta.rl.learning.minibatches import Minibatch
from metta.rl.learning.ppo import Statistics, backward
from metta.rl.learning.random_state import seed_everything
from metta.rl.train_config import RunConfig


class SummedGradients:
    """Takes the place of `ppo.backward_alone`: every process adds its shards' gradients to the exchange."""

    def __init__(self, agent: PolicyAgent, exchange: Exchange, buffers: CommonBuffers):
        self._exchange, self._buffers = exchange, buffers
        self._parameters = list(agent.parameters())
        block = exchange.dealt.block
        self._views = [dict(zip(block, map(self._cut, turn), strict=True)) for turn in exchange.apart]
        self._summed = self._cut(exchange.total)
        self._seed = self._turn = 0

    @staticmethod
    def size(agent: PolicyAgent) -> int:
        """Numbers of one shard: the gradients, and the statistics."""
        return sum(parameter.numel() for parameter in agent.parameters()) + len(Statistics._fields)

    def begin(self, seed: int) -> "SummedGradients":
        """seed: of what agents draw by themselves, in dropout for one."""
        self._seed, self._turn = seed, 0
        return self

    def __call__(
        self, agent: PolicyAgent, minibatch: Minibatch, config: RunConfig, twin: TwinNetwork | None = None
    ) -> Statistics:
        self._turn += 1
        views = self._views[self._exchange.turn]
        for shard, part in minibatch.parts.items():
            seed_everything(self._seed + self._turn * self._exchange.dealt.num_shards + shard)
            for parameter in self._parameters:
                parameter.grad = None
            self._buffers.restore()
            statistics = backward(agent, part, config, twin)
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
            torch._foreach_copy_(views[shard], [*gradients, torch.stack(statistics)])
            self._buffers.write(shard)
        self._exchange.add_up()
        self._buffers.merge(minibatch.present)
        *gradients, summed_statistics = self._summed
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        return Statistics(*summed_statistics.clone())

    def _cut(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat tensor: one of each parameter's shape, and the statistics."""
        sizes = [parameter.numel() for parameter in self._parameters]
        *gradients, stats = flat.split([*sizes, len(Statistics._fields)])
        return [g.view(p.shape) for g, p in zip(gradients, self._parameters, strict=True)] + [stats]
