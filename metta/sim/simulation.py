"""Playing episodes: an agent, an environment, and seeds that anyone can play again.

Episodes are played in batches of num_envs at once, and the processes take turns at the batches. So the bits depend on
num_envs, and never on how many processes there are, or which of them plays a batch.
"""

import math
import os
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_group import gymnasium_spec_bytes, register
from metta.envs.env_spec import EnvSpec
from metta.envs.vec_env import DealtSeeds, Episode, VecEnv
from metta.files import portable_pickle
from metta.processes.shared_arrays import shared_memory_file
from metta.processes.worker import Worker, end_workers
from metta.sim.players import Player, make_player

AGENTS, GAMES = 256, 64  # that play at once, at most: enough to pay for a call of the network, and little memory
HELP_AFTER_S = 2.0  # of playing: about what it costs to start a process

Batches = queue.SimpleQueue[tuple[PolicyAgent | None, range] | None]  # who plays the episodes of which seeds
Played = queue.SimpleQueue[list[Episode] | Exception]


def default_num_envs(spec: EnvSpec, episodes: int) -> int:
    """Batches of one size, two at least: one for each core of a small machine.

    Never a function of the machine: the same evaluation is the same computation everywhere.
    """
    most = max(1, min(GAMES, AGENTS // spec.num_agents))
    return math.ceil(episodes / max(2, math.ceil(episodes / most)))


class Simulation:
    """num_envs environments, and who plays in them: what one process has."""

    def __init__(self, env: str, settings: dict[str, Any], num_envs: int, device: str):
        self.device = device
        self.envs = VecEnv(env, num_envs, DealtSeeds(0, 0, num_envs), settings=settings)

    def take(self, agent: PolicyAgent | bytes | None) -> None:
        """Have it play from now on; None: a random agent. UserError unless it can act here."""
        player: PolicyAgent | None = portable_pickle.loads(agent) if isinstance(agent, bytes) else agent
        if player is not None:
            player = player.to(self.device).eval()
        self.player: Player = make_player(player, self.envs.spec, self.envs.num_envs)

    def play(self, seeds: range) -> list[Episode]:
        """One episode of each of these seeds, at most num_envs of them; in the order in which they end.

        Dealt beforehand, so that short episodes do not count more often than long ones.
        """
        envs, player = self.envs, self.player
        envs.episode_seeds = DealtSeeds(seeds.start, len(seeds), envs.num_envs)
        envs.reset()
        for env_index, seed in enumerate(seeds):
            player.begin(env_index, seed)
        starts = np.ones(envs.batch_size, dtype=bool)
        episodes: list[Episode] = []
        with one_thread():
            while envs.active.any():
                episodes += envs.step(player.act(envs.observations, starts))
                np.logical_or(envs.terminated, envs.truncated, out=starts)
        return episodes


class Simulations:
    """The same environments in this process and in `num_workers` others that help it.

    num_workers None: a process for each core that has a batch to play, once this one has played for HELP_AFTER_S.
    An agent's class must be importable, or written in a script, as for a checkpoint. Close it when done.
    """

    def __init__(self, env: str, settings: dict[str, Any], num_envs: int, num_workers: int | None, device: str):
        self._arguments: dict[str, Any] = {"env": env, "settings": settings, "num_envs": num_envs, "device": device}
        self._here = Simulation(**self._arguments)
        self.num_workers, self._seconds = num_workers, 0.0
        self._batches: Batches = queue.SimpleQueue()
        self._played: Played = queue.SimpleQueue()
        self._helpers: list[tuple[Worker, threading.Thread]] = []
        self._finalizer = weakref.finalize(self, dismiss, self._helpers, self._batches)

    @property
    def spec(self) -> EnvSpec:
        return self._here.envs.spec

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def play(self, agent: PolicyAgent | None, seeds: range) -> list[Episode]:
        """One episode of each seed, in their order. agent None: a random one.

        UserError unless the agent can act here. EnvError where an environment or a process fails: then it is closed.
        """
        self._here.take(agent)
        num_envs = self._here.envs.num_envs
        batches = [seeds[first : first + num_envs] for first in range(0, len(seeds), num_envs)]
        try:
            for batch in batches:
                self._batches.put((agent, batch))
            played = [self._play_or_wait(len(batches)) for _ in batches]
        except BaseException:
            self.close()
            raise
        return sorted((episode for batch in played for episode in batch), key=lambda episode: episode.seed)

    def close(self) -> None:
        """End the processes, whatever they are at. Happens by itself when this is collected."""
        self._finalizer()
        self._here.envs.close()

    def _play_or_wait(self, num_batches: int) -> list[Episode]:
        """What a helper has played, or else a batch played here."""
        self._call_for_help(num_batches)
        task = None
        if self._played.empty():
            with suppress(queue.Empty):  # where the helpers have the last ones
                task = self._batches.get_nowait()
        if task is None:
            played = self._played.get()
            if isinstance(played, Exception):
                raise played from None
            return played
        began = time.monotonic()
        episodes = self._here.play(task[1])
        self._seconds += time.monotonic() - began
        return episodes

    def _call_for_help(self, num_batches: int) -> None:
        wanted = self.num_workers
        if wanted is None:
            wanted = min(os.cpu_count() or 1, num_batches) - 1 if self._seconds > HELP_AFTER_S else 0
        while len(self._helpers) < wanted:
            with shared_memory_file(0) as nothing:
                spec = gymnasium_spec_bytes(self.spec.name)
                holds = f"simulations of env={self.spec.name}"
                worker = Worker(holds, nothing, set_up, **self._arguments, gymnasium_spec=spec)
            arguments = (worker, self._batches, self._played)
            thread = threading.Thread(target=keep_busy, args=arguments, daemon=True)
            self._helpers.append((worker, thread))
            thread.start()


def set_up(memory_fd: int, connection: Connection, gymnasium_spec: bytes | None, **arguments: Any) -> Simulation:
    """The Simulation of a worker process."""
    register(gymnasium_spec)
    return Simulation(**arguments)


def keep_busy(worker: Worker, batches: Batches, played: Played) -> None:
    """A thread's life: hand the worker one batch after the other, until there is a None."""
    try:
        worker.receive()  # it is set up
        agent: Any = worker  # nobody yet
        while (task := batches.get()) is not None:
            if task[0] is not agent:
                agent = task[0]
                worker.send("take", None if agent is None else portable_pickle.dumps(agent))
                worker.receive()
            worker.send("play", task[1])
            played.put(worker.receive())
    except Exception as error:  # noqa: BLE001 (raised again in Simulations.play)
        played.put(error)


def dismiss(helpers: list[tuple[Worker, threading.Thread]], batches: Batches) -> None:
    for worker, _ in helpers:
        worker.kill()
        batches.put(None)
    for _, thread in helpers:
        thread.join()
    end_workers([worker for worker, _ in helpers])
    helpers.clear()


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: more gain little in acting, and lose much where another process has the core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
