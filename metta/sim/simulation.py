"""Playing episodes: an agent, an environment, and seeds that anyone can play again.

Episodes are played in batches of num_envs at once, and the processes take turns at the batches. So the bits depend on
num_envs, and never on how many processes there are, or which of them plays a batch.
"""

import functools
import math
import os
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future

import numpy as np

from metta.agent.policy_agent import PolicyAgent
from metta.envs.by_value import pack, unpack
from metta.envs.env_spec import EnvName, EnvSpec
from metta.envs.vec_env import DealtSeeds, Episode, VecEnv
from metta.errors import EnvError
from metta.files import portable_pickle
from metta.machine import one_thread
from metta.processes.pool import WorkerPool
from metta.sim.players import Player, make_player

AGENTS, GAMES = 256, 64  # that play at once, at most: enough to pay for a call of the network, and little memory
MOST_STEPS = 500_000  # of an episode: far more than any has that ends
PLAYING = threading.Lock()  # the threads of an executor share what is kept in their process
HELP_AFTER_S = 2.0  # of playing: about what it costs to start a process


def default_num_envs(spec: EnvSpec, episodes: int) -> int:
    """Choose a batch size that gives equal batches, at least two: one for each core of a small machine.

    Never a function of the machine: the same evaluation is the same computation everywhere.
    """
    most = max(1, min(GAMES, AGENTS // spec.num_agents))
    return math.ceil(episodes / max(2, math.ceil(episodes / most)))


def no_end(env: EnvName, seed: int) -> EnvError:
    """Make the error of an episode that goes on after MOST_STEPS."""
    ends = "a limit, as env.max_episode_steps=1000, ends it"
    return EnvError(f"env={env.label}: no end of seed {seed} after {MOST_STEPS:,} steps; {ends}")


class Simulation:
    """num_envs environments, and the episodes that one process plays in them."""

    def __init__(self, spec: EnvSpec, num_envs: int, device: str):
        self.device = device
        self.envs = VecEnv(spec, num_envs, DealtSeeds(()))

    def player(self, agent: PolicyAgent | None, sampled: bool) -> Player:
        """Make the player of this agent; None: a random one. UserError unless it can act here."""
        if agent is not None:
            agent = agent.to(self.device).eval()
        return make_player(agent, self.envs.spec, self.envs.num_envs, sampled)

    def play(self, player: Player, seeds: range) -> list[Episode]:
        """Play an episode of each of these seeds, at most num_envs of them; returns them in the order they end.

        EnvError where one does not end.
        """
        envs = self.envs
        envs.reset(DealtSeeds(seeds))
        for env_index, seed in enumerate(seeds):
            player.begin(env_index, seed)
        starts = np.ones(envs.batch_size, dtype=bool)
        episodes: list[Episode] = []
        with one_thread():
            steps = 0
            while envs.active.any():
                if steps == MOST_STEPS:
                    raise no_end(envs.spec.env, seeds[int(envs.active.argmax())])
                episodes += envs.step(player.act(envs.observations, starts))
                np.logical_or(envs.terminated, envs.truncated, out=starts)
                steps += 1
        return episodes


class SimulationPool:
    """The same environments in this process and in worker processes that help it.

    num_workers None: one for each further core, once this process has played for HELP_AFTER_S. An agent's class must be
    importable, or written in a script, as for a checkpoint. Close it when done.
    """

    def __init__(
        self, spec: EnvSpec, num_envs: int, num_workers: int | None, device: str, executor: Executor | None = None
    ):
        """executor: plays what `begin` is asked for, in place of processes here."""
        self.spec, self._executor = spec, executor
        self._here = Simulation(spec, num_envs, device)
        self._task = pickle.dumps((pack(spec.env), (spec, num_envs, device)))
        self._at_once = num_workers is not None
        self._num_workers = (os.cpu_count() or 1) - 1 if num_workers is None else num_workers
        self._pool: WorkerPool | None = None
        self._seconds = 0.0  # played here
        self.closed = False

    def begin(self, agent: PolicyAgent | None, seeds: range, sampled: bool = False) -> Callable[[], list[Episode]]:
        """Have the executor play an episode of each seed; returns what waits for them, and gives them in that order.

        Without an executor nothing begins before that, and this process plays, to the same bits. agent None: a random
        one. sampled: see AgentPlayer. UserError unless the agent can act here. EnvError, of what is returned, where an
        environment or a process fails: then it is closed.
        """
        player, num_envs = self._here.player(agent, sampled), self._here.envs.num_envs
        batches = [seeds[first : first + num_envs] for first in range(0, len(seeds), num_envs)]
        if self._executor is None:
            return functools.partial(self._play, player, agent, sampled, batches)
        futures = self._submit(self._executor, agent, sampled, batches)
        return lambda: sorted((e for future in futures for e in future.result()), key=lambda episode: episode.seed)

    def _play(self, player: Player, agent: PolicyAgent | None, sampled: bool, batches: list[range]) -> list[Episode]:
        """Play the batches from the last one on, while the helping processes play them from the first one on."""
        episodes: list[Episode] = []
        futures: list[Future[list[Episode]]] = []  # of the first batches; those that this process takes are cancelled
        try:
            for index in reversed(range(len(batches))):
                if not futures and self._help_pays():
                    futures = self._submit(self._helpers(), agent, sampled, batches[:index])
                if index >= len(futures) or futures[index].cancel():
                    episodes += self._play_here(player, batches[index])
                for future in futures:
                    if future.done() and not future.cancelled():
                        future.result()  # raises what went wrong
            for future in futures:
                if not future.cancelled():
                    episodes += future.result()
        except BaseException:
            if self._pool is not None:
                self._pool.kill_workers()
            self.close()
            raise
        return sorted(episodes, key=lambda episode: episode.seed)

    def close(self) -> None:
        """Close the environments and end the processes."""
        self.closed = True
        if self._pool is not None:
            self._pool.shutdown()
        self._here.envs.close()

    def _help_pays(self) -> bool:
        return self._num_workers > 0 and (self._at_once or self._seconds > HELP_AFTER_S)

    def _helpers(self) -> WorkerPool:
        if self._pool is None:
            holds = f"simulations of env={self.spec.env.short_name}"
            self._pool = WorkerPool(self._num_workers, holds, kept_simulation, (self._task,))
        return self._pool

    def _submit(
        self, executor: Executor, agent: PolicyAgent | None, sampled: bool, batches: list[range]
    ) -> list[Future[list[Episode]]]:
        pickled = portable_pickle.dumps(agent)
        return [executor.submit(play_batch, self._task, pickled, sampled, batch) for batch in batches]

    def _play_here(self, player: Player, batch: range) -> list[Episode]:
        began = time.monotonic()
        episodes = self._here.play(player, batch)
        self._seconds += time.monotonic() - began
        return episodes


def play_batch(task: bytes, agent: bytes, sampled: bool, seeds: range) -> list[Episode]:
    """Play in a worker process, which keeps the environments and the agent for the next batch."""
    with PLAYING:
        return kept_simulation(task).play(kept_player(task, agent, sampled), seeds)


@functools.lru_cache(maxsize=1)
def kept_simulation(task: bytes) -> Simulation:
    env, arguments = pickle.loads(task)
    unpack(env)
    return Simulation(*arguments)


@functools.lru_cache(maxsize=1)
def kept_player(task: bytes, agent: bytes, sampled: bool) -> Player:
    return kept_simulation(task).player(portable_pickle.loads(agent), sampled)
