"""The replicas that train one run: in this process, in its workers, and in those of the other ranks."""

import mmap
import os
import weakref
from functools import partial
from itertools import chain
from typing import Any

import torch

from metta.agent.policy_agent import PolicyAgent
from metta.envs.by_value import pack
from metta.errors import UserError
from metta.files import portable_pickle
from metta.processes.exchange import Dealt, Exchange
from metta.processes.ranks import Ranks
from metta.processes.shared_arrays import shared_memory_file, shares
from metta.processes.worker import Worker, end_workers
from metta.rl.learning.random_state import DRAWING
from metta.rl.learning.replica import Replica, meet_all, start_replica
from metta.rl.learning.rollout import Rollout
from metta.rl.learning.summed_gradients import SummedGradients
from metta.rl.train_config import RunConfig


class Crew:
    """Deals the shards, and calls every replica. Ranks other than the first do what the first one's crew calls."""

    signal: int | None = None  # that another rank was sent

    def __init__(self, config: RunConfig, agent: PolicyAgent):
        """Start the replicas of this rank; in the first rank those of all. UserError where shards cannot be dealt."""
        self.ranks = ranks = Ranks.joined
        rank, size, on_this_machine = (ranks.rank, ranks.size, ranks.on_this_machine) if ranks else (0, 1, 1)
        if config.num_shards % size:
            must = f"it must be a multiple of {size}"
            raise UserError(f"num_shards={config.num_shards} cannot be dealt to {size} ranks: {must}")
        if ranks and rank == 0:
            started = portable_pickle.dumps((config, agent))
            ranks.broadcast((pack(agent.env.env), torch.get_num_threads(), started))
        self._workers: list[Worker] = []
        self._finalizer = weakref.finalize(self, end_workers, self._workers)
        try:
            block = shares(config.num_shards, size)[rank]
            with DRAWING:
                self.replica = self._start(config, agent, block, on_this_machine)
        except BaseException:
            self._finalizer()
            raise
        self.timers = self.replica.timers

    def _start(self, config: RunConfig, agent: PolicyAgent, block: range, ranks_here: int) -> Replica:
        """Deal this rank's shards to this process and to workers; returns this one's replica."""
        cores = max(1, (os.cpu_count() or 1) // ranks_here)
        processes = min(len(block), cores) if config.num_workers is None else 1 + config.num_workers
        on_gpu = next(agent.parameters()).device.type != "cpu"  # one process for the GPU
        helpers = (processes - 1) // len(block) if on_gpu else max(0, processes // len(block) - 1)
        parts = shares(len(block), 1 if on_gpu else min(len(block), processes))
        local = tuple(range(block.start + part.start, block.start + part.stop) for part in parts)
        require_memory(config, agent, len(block) * ranks_here)
        dealt = [Dealt(config.num_shards, local, mine) for mine in local]
        num_bytes = Exchange.memory_bytes(dealt[0], SummedGradients.size(agent))
        with shared_memory_file(num_bytes) as file:
            memory = mmap.mmap(file.fileno(), num_bytes)
            for theirs in dealt[1:]:
                self._workers.append(start_replica(file, config, agent, theirs, helpers))
        replica = Replica(config, agent, dealt[0], helpers, memory, partial(meet_all, self._workers), self.ranks)
        for worker in self._workers:
            worker.receive()
        return replica

    @property
    def alone(self) -> bool:
        return self.ranks is None and not self._workers

    def everywhere(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every replica; what they return, in the order of the shards."""
        if self.ranks is None:
            return self.here(method, *arguments)
        self.ranks.broadcast((method, arguments))
        answers = self.here(method, *arguments)
        with self.timers("wait"):
            _, *others = self.ranks.gather_objects()
        self.signal = next((signal for _, signal in others if signal is not None), self.signal)
        return answers + list(chain(*(theirs for theirs, _ in others)))

    def follow(self, call: tuple[str, tuple[Any, ...]], signal: int | None) -> None:
        """Do what the first rank's `everywhere` calls."""
        assert self.ranks is not None
        method, arguments = call
        self.ranks.gather_objects((self.here(method, *arguments), signal))

    def here(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of this rank's replicas."""
        for worker in self._workers:
            worker.send(method, *arguments)
        with DRAWING:
            answers = [getattr(self.replica, method)(*arguments)]
        for worker in self._workers:
            with self.timers("wait"):
                answers.append(worker.receive())
        return answers

    def close(self) -> None:
        """End the worker processes and close the environments."""
        self._finalizer()
        self.replica.close()


def require_memory(config: RunConfig, agent: PolicyAgent, shards: int) -> None:
    """UserError where this many shards' experience does not fit into this machine."""
    rows = -(-config.num_envs * shards // config.num_shards) * agent.env.num_agents
    num_bytes = Rollout.num_bytes(agent, config.horizon, rows)
    if num_bytes > (have := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        size = f"horizon={config.horizon} num_envs={config.num_envs}: an epoch's data is {num_bytes / 1e9:,.0f} GB"
        raise UserError(f"{size}, and this machine has {have / 1e9:,.0f} GB of memory")
