"""Data-parallel training: the environments are cut into shards, each of which is computed apart.

Every process has some of the shards, and a replica of the agent and of its optimiser. It collects its shards' rollouts,
which stay with it, and computes its shards' gradients of each minibatch; these are added up along a tree over all
shards, and every replica takes the same step. So the bits depend on the number of shards, and never on how many
processes share them.
"""

import math
import mmap
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from metta.agent.policy_agent import PolicyAgent
from metta.envs.by_value import pack, unpack
from metta.envs.env_group import environments
from metta.envs.vec_env import Episode, EpisodeSeeds, VecEnv
from metta.files import portable_pickle
from metta.machine import keep_freed_memory
from metta.moments import Moments
from metta.processes.exchange import Dealt, Exchange, Meet
from metta.processes.ranks import Ranks
from metta.processes.shared_arrays import shares
from metta.processes.worker import Worker
from metta.rl.learning.collector import Collector
from metta.rl.learning.common_buffers import CommonBuffers
from metta.rl.learning.minibatches import Minibatches
from metta.rl.learning.ppo import backward_alone, gae, successor_values, update
from metta.rl.learning.random_state import seed_everything, seed_of, seeded
from metta.rl.learning.reward_scaler import RewardScaler
from metta.rl.learning.rollout import Batch, Rollout
from metta.rl.learning.summed_gradients import SummedGradients
from metta.rl.learning.timers import Timers
from metta.rl.learning.user_functions import make_optimizer, named, with_functions
from metta.rl.train_config import RunConfig

ATTRIBUTES = "attributes"  # in an optimiser's state: numbers that are in no state_dict
SET_RATE = "set_lr"  # in a group of its parameters: the learning rate that code outside gave this one of several
Switches: TypeAlias = tuple[list[dict[str, Any]], list[bool]]  # as switches_of gives them
PATIENCE = 0.002  # seconds of asking for an answer before sleeping: to wake a sleeping core takes 50 to 300 us


class Replica:
    """What one process does of the training: the shards `dealt.mine` of config.num_shards."""

    def __init__(
        self,
        config: RunConfig,
        agent: PolicyAgent,
        dealt: Dealt,
        helpers: int,
        memory: Any,
        meet: Meet,
        ranks: Ranks | None = None,
    ):
        """helpers: processes that step the environments of each shard; memory: a buffer of `memory_bytes`, meet and
        ranks: as Exchange has them."""
        self.config, self.agent = config, agent
        self._with_functions = with_functions(config)
        with named(config, "optimizer"):
            self.optimizer = make_optimizer(agent, config)
        # Of each group of parameters, as a part of the learning rate.
        groups = self.optimizer.param_groups  # a scheduler of the user's, which nobody calls, has changed lr already
        self.rates = [group.get("initial_lr", group.get("lr", 0.0)) / config.learning_rate for group in groups]
        self._chance = 0
        if config.optimizer is not None:  # which may draw, and from the same numbers in every process
            self.optimizer.register_step_pre_hook(lambda *_: self._seed_step())
        self.timers = timers = Timers()
        keep_freed_memory()

        def timed(between: Callable[[], None]) -> None:
            with timers("wait" if ranks is None else "exchange"):
                meet(between)

        device = next(agent.parameters()).device
        self.exchange = Exchange(dealt, SummedGradients.size(agent), memory, timed, ranks, device)
        with named(config, "agent"):
            self.buffers = CommonBuffers(agent, self.exchange)
            self.gradients = SummedGradients(agent, self.exchange, self.buffers) if config.num_shards > 1 else None
        envs_of = shares(config.num_envs, config.num_shards)
        self.collectors: dict[int, Collector] = {}
        for shard in dealt.mine:
            first, count = envs_of[shard].start, len(envs_of[shard])
            envs = VecEnv(agent.env, count, EpisodeSeeds(config.seed), helpers, first_env=first)
            envs.reset()
            rollout = Rollout.zeros(agent, config.horizon, envs.batch_size)
            with seeded(seed_of(config.seed, 0, 1 + shard, 1)):  # an agent's first state may be drawn
                self.collectors[shard] = Collector(envs, agent, rollout, timers, self.buffers)
        self.rollouts = [collector.rollout for collector in self.collectors.values()]
        self.scaler = RewardScaler([rollout.values.shape[1] for rollout in self.rollouts], config.gamma)

    def collect(self, epoch: int) -> list[Episode]:
        """Write these shards' rollouts; returns the episodes that ended."""
        episodes = []
        self.buffers.begin()
        for shard, collector in self.collectors.items():
            self.buffers.restore()
            with named(self.config, "agent"):
                episodes += collector.collect(seed_of(self.config.seed, epoch, 1 + shard))
            self.buffers.write(shard)
        self.buffers.end()
        return episodes

    def learn(self, epoch: int, learning_rate: float) -> tuple[dict[str, float], np.ndarray]:
        """Learn from the rollouts, together with the other replicas; returns the losses, and `_estimate_advantages`."""
        config = self.config
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = group.get(SET_RATE, learning_rate * rate)
        self.buffers.merge(range(config.num_shards))
        of_critic = self._estimate_advantages()
        self._chance = seed = seed_of(config.seed, epoch, 0)
        seed_everything(seed)
        rows, size = config.num_envs * self.agent.env.num_agents, config.minibatch_size
        batches: list[Batch] = [*self.rollouts]
        if batches[0].state:  # a minibatch is whole rows of T steps, otherwise any steps
            size = max(1, size // config.horizon)
        else:
            batches, rows = [rollout.independent_steps() for rollout in self.rollouts], rows * config.horizon
        by_shard = dict(zip(self.collectors, batches, strict=True))
        minibatches = Minibatches(by_shard, rows, size, self.exchange, seed)
        gradients = backward_alone if self.gradients is None else self.gradients.begin(seed)
        with named(config, "agent", "optimizer", "loss"):
            losses = update(self.agent, self.optimizer, minibatches, self._with_functions, gradients)
        self.buffers.end()
        observations = [rollout.observations for rollout in self.rollouts]
        self.agent.update_normalizers(*observations, gather=self.exchange.gather)
        if config.loss is not None:  # what it does not tell is not known; whether it went wrong the parameters tell
            losses = {name: value for name, value in losses.items() if not math.isnan(value)}
        return losses, of_critic

    def _seed_step(self) -> None:
        self._chance += 1
        seed_everything(self._chance)

    def _estimate_advantages(self) -> np.ndarray:
        """Write the advantages and returns; returns moments `[shards, 2, 3]`: the critic's errors', the returns'."""
        config, done = self.config, [rollout.terminated | rollout.truncated for rollout in self.rollouts]
        rewards = [rollout.rewards for rollout in self.rollouts]
        present = [... if rollout.present is None else rollout.present.cpu().numpy() for rollout in self.rollouts]
        scaled = self.scaler(list(zip(rewards, done, strict=True)), self.exchange.gather, present)
        own = []
        for rollout, ended, reward, where in zip(self.rollouts, done, scaled, present, strict=True):
            values = rollout.values.cpu().numpy()
            next_values = successor_values(
                values, rollout.last_values, rollout.bootstrap_values, rollout.terminated, rollout.truncated
            )
            advantages = gae(reward, values, next_values, ended, config.gamma, config.gae_lambda)
            returns = advantages + values
            rollout.advantages.copy_(torch.from_numpy(advantages))
            rollout.returns.copy_(torch.from_numpy(returns))
            own.append((Moments.of((returns - values)[where]), Moments.of(returns[where])))
        return np.array(own)

    def state_dict(self) -> list[dict[str, Any]]:
        """Of each shard."""
        return [
            {**collector.state_dict(), "discounted": discounted.copy()}
            for collector, discounted in zip(self.collectors.values(), self.scaler.discounted, strict=True)
        ]

    def load_state_dict(self, optimizer: dict[str, Any], scaler: dict[str, Any], shards: list[dict[str, Any]]) -> int:
        """Go on in the middle of the saved episodes; returns how many environments could not be brought back.

        shards: every shard's state, of which it takes its own.
        """
        with named(self.config, "optimizer"):
            self._load_optimizer(optimizer)
        self.scaler.load_state_dict(scaler, [shards[shard]["discounted"] for shard in self.collectors])
        return sum(len(collector.load_state_dict(shards[shard])) for shard, collector in self.collectors.items())

    def adopt(self, agent: dict[str, Any], switches: Switches, optimizer: dict[str, Any]) -> None:
        """Take over what code outside has changed in the first process's, which does no harm there."""
        self.agent.load_state_dict(agent)
        for module, own in zip(self.agent.modules(), switches[0], strict=True):
            vars(module).update(own)
        for parameter, learns in zip(self.agent.parameters(), switches[1], strict=True):
            parameter.requires_grad_(learns)
        self._load_optimizer(optimizer)

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's state_dict, and the numbers that one of the user's own keeps in attributes."""
        own = {name: value for name, value in vars(self.optimizer).items() if type(value) in (int, float, Tensor)}
        return {**self.optimizer.state_dict(), ATTRIBUTES: own}

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        vars(self.optimizer).update(state.get(ATTRIBUTES, {}))
        self.optimizer.load_state_dict({name: value for name, value in state.items() if name != ATTRIBUTES})

    def close(self) -> None:
        for collector in self.collectors.values():
            collector.envs.close()


def switches_of(agent: PolicyAgent) -> Switches:
    """Whether each part of the agent is in training mode, and its other numbers and texts; which parameters learn."""
    plain = [
        {name: value for name, value in vars(module).items() if type(value) in (bool, int, float, str, NoneType)}
        for module in agent.modules()
    ]
    return plain, [parameter.requires_grad for parameter in agent.parameters()]


def start_replica(memory_file: Any, config: RunConfig, agent: PolicyAgent, dealt: Dealt, helpers: int) -> Worker:
    """A worker process that holds a Replica."""
    envs_of = shares(config.num_envs, config.num_shards)
    return Worker(
        environments(agent.env.env, range(envs_of[dealt.mine[0]].start, envs_of[dealt.mine[-1]].stop)),
        memory_file,
        set_up,
        pickled=portable_pickle.dumps((config, agent, dealt, helpers)),
        threads=torch.get_num_threads(),
        env=pack(agent.env.env, config.loss, config.optimizer),
    )


def set_up(memory_fd: int, connection: Connection, pickled: bytes, threads: int, env: str | None) -> Replica:
    """The Replica of a worker process."""
    torch.set_num_threads(threads)
    unpack(env)
    config, agent, dealt, helpers = portable_pickle.loads(pickled)

    def meet(between: Callable[[], None]) -> None:  # which the first process calls
        connection.send_bytes(b"")
        await_message(connection)
        connection.recv_bytes()

    memory = mmap.mmap(memory_fd, Exchange.memory_bytes(dealt, SummedGradients.size(agent)))
    return Replica(config, agent, dealt, helpers, memory, meet)


def meet_all(workers: list[Worker], between: Callable[[], None]) -> None:
    """The first process's `meet`."""
    for worker in workers:
        await_message(worker.connection)
        worker.receive()
    between()
    for worker in workers:
        worker.step()


def await_message(connection: Connection) -> None:
    """Ask for a while without sleeping; the caller's `recv_bytes` sleeps after that."""
    until = time.perf_counter() + PATIENCE
    while not connection.poll() and time.perf_counter() < until:
        pass
