"""The environments that one process steps: all of them in the caller's, or a share in each worker process.

A worker is a plain `python -c` child, not a multiprocessing one: the user's script is not imported a second time, and
nothing is tracked that could leak. Memory is shared through an unnamed file, which the kernel frees when the last
process that maps it is gone, however it went. A worker sleeps on its pipe; the pipe's end ends the worker.
"""

import copy
import io
import math
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from metta.envs.env_spec import EnvSpec
from metta.envs.make_env import METTAGRID_NAMES, make_env

Ended = list[tuple[int, dict[str, float]]]  # environment index and metrics of each episode that a step ended

START = "import sys; sys.path = sys.argv[3:]; from metta.envs.workers import main; main(*map(int, sys.argv[1:3]))"


class EnvError(RuntimeError):
    """An environment, or the worker process that held it, failed: one line that says which, where and how."""


@dataclass
class Arrays:
    """What all processes share. B = num_envs * num_agents rows, those of one environment together."""

    observations: np.ndarray  # [B, *observation_shape]
    final_observations: np.ndarray  # the same
    rewards: np.ndarray  # [B] float32
    terminated: np.ndarray  # [B] bool
    truncated: np.ndarray  # [B] bool
    actions: np.ndarray  # [B, *action_shape] int64 or float32
    next_seeds: np.ndarray  # [num_envs] int64: the seed of each environment's next episode, -1 for none

    @staticmethod
    def layout(spec: EnvSpec, num_envs: int) -> list[tuple[tuple[int, ...], np.dtype]]:
        rows = num_envs * spec.num_agents
        observations = ((rows, *spec.observation_shape), np.dtype(spec.observation_dtype))
        flag = ((rows,), np.dtype(bool))
        actions = ((rows, *spec.action_shape), np.dtype(np.float32 if spec.num_actions is None else np.int64))
        seeds = ((num_envs,), np.dtype(np.int64))
        return [observations, observations, ((rows,), np.dtype(np.float32)), flag, flag, actions, seeds]

    @classmethod
    def num_bytes(cls, spec: EnvSpec, num_envs: int) -> int:
        return sum(_aligned(math.prod(shape) * dtype.itemsize) for shape, dtype in cls.layout(spec, num_envs))

    @classmethod
    def over(cls, memory: Any, spec: EnvSpec, num_envs: int) -> "Arrays":
        """Arrays that lie in `memory`, a buffer of `num_bytes`."""
        arrays, offset = [], 0
        for shape, dtype in cls.layout(spec, num_envs):
            arrays.append(np.ndarray(shape, dtype, memory, offset))
            offset += _aligned(arrays[-1].nbytes)
        return cls(*arrays)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // 64) * 64


class EnvGroup:
    """Some of the environments, stepped one after the other by this process, on their rows of the shared arrays."""

    def __init__(self, name: str, settings: dict[str, Any], arrays: Arrays, num_envs: int, indices: range):
        self._name, self._arrays, self.indices = name, arrays, indices
        self._envs = {index: make_env(name, settings) for index in indices}
        agents = len(arrays.rewards) // num_envs
        self._rows = {index: slice(index * agents, (index + 1) * agents) for index in indices}
        for index, env in self._envs.items():
            rows = self._rows[index]
            env.bind(arrays.observations[rows], arrays.rewards[rows], arrays.terminated[rows], arrays.truncated[rows])
        mine = slice(indices.start * agents, indices.stop * agents)
        self._terminated, self._truncated = arrays.terminated[mine], arrays.truncated[mine]
        self._done = np.zeros((len(indices), agents), bool)
        self._seeds = dict.fromkeys(indices, -1)
        self._playing: list[tuple[int, Any, np.ndarray]] = []  # index, step and its argument where not idle
        self._just_idle: list[int] = []

    def begin(self, indices: Iterable[int]) -> list[None]:
        """Begin the next episode of these environments, or leave them idle where there is none."""
        for index in indices:
            idled, self._seeds[index] = self._seeds[index] < 0, int(self._arrays.next_seeds[index])
            idles = self._seeds[index] < 0
            if idles:
                self._just_idle.append(index)
            if idles != idled:
                self._find_playing()
            if not idles:
                try:
                    self._envs[index].reset(self._seeds[index])
                except Exception as error:
                    raise self._failure(index, error) from error
        return []

    def step(self) -> Ended:
        """One step of each environment; those that end an episode begin the next at once."""
        index = -1
        if self._just_idle:
            self._silence()
        try:
            for index, step, actions in self._playing:  # noqa: B007
                step(actions)
        except Exception as error:
            raise self._failure(index, error) from error
        np.logical_or(self._terminated, self._truncated, out=self._done.reshape(-1))
        if not self._done.any():
            return []
        ended: Ended = []
        for index in (np.flatnonzero(self._done.all(1)) + self.indices.start).tolist():
            rows = self._rows[index]
            self._arrays.final_observations[rows] = self._arrays.observations[rows]
            ended.append((index, self._envs[index].metrics()))
        self.begin(index for index, _ in ended)
        return ended

    def replay(self, episodes: dict[int, np.ndarray]) -> list[np.ndarray]:
        """Step environments that just began through the actions `[steps, num_agents, ...]` of their episodes.

        Returns the returns so far, `[num_agents]` float64 of each; NaN where an episode ended too early.
        """
        return [self._replay_one(index, actions) for index, actions in episodes.items()]

    def _replay_one(self, index: int, actions: np.ndarray) -> np.ndarray:
        rows, env, arrays = self._rows[index], self._envs[index], self._arrays
        returns = np.zeros(rows.stop - rows.start)
        try:
            for step_actions in actions:
                arrays.actions[rows] = step_actions
                env.step(arrays.actions[rows])
                returns += arrays.rewards[rows]
                if (arrays.terminated[rows] | arrays.truncated[rows]).all():
                    return np.full_like(returns, np.nan)
        except Exception as error:
            raise self._failure(index, error) from error
        return returns

    def close(self) -> None:
        for env in self._envs.values():
            env.close()

    def _find_playing(self) -> None:
        playing = [index for index, seed in self._seeds.items() if seed >= 0]
        self._playing = [(index, self._envs[index].step, self._arrays.actions[self._rows[index]]) for index in playing]

    def _silence(self) -> None:
        for index in self._just_idle:
            for array in (self._arrays.rewards, self._arrays.terminated, self._arrays.truncated):
                array[self._rows[index]] = 0
        self._just_idle = []

    def _failure(self, index: int, error: Exception) -> EnvError:
        where = f"environment {index} of env={self._name} failed in the episode of seed {self._seeds[index]}"
        return EnvError(f"{where}: {type(error).__name__}: {error}")


class Worker:
    """A process that holds an EnvGroup, seen from the process that started it.

    Each call is `send`, then `receive`; what goes wrong in the worker, its death included, is an EnvError here.
    """

    def __init__(self, memory_file: io.IOBase, setup: dict[str, Any]):
        self._name, self.indices = setup["spec"].name, setup["indices"]
        self._connection, theirs = Pipe()
        # Its own process group: Ctrl-C at the terminal is the parent's to answer.
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(theirs.fileno()), str(memory_file.fileno()), *sys.path],
            pass_fds=(theirs.fileno(), memory_file.fileno()),
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        theirs.close()
        self.send("setup", setup)

    def send(self, call: str, argument: Any = None) -> None:
        try:
            self._connection.send_bytes(b"" if call == "step" else pickle.dumps((call, argument)))
        except OSError:
            raise self._death() from None

    def receive(self) -> Any:
        try:
            reply = self._connection.recv_bytes()
        except (EOFError, OSError):
            raise self._death() from None
        if not reply:
            return []
        failure, result = pickle.loads(reply)
        if failure is None:
            return result
        error = EnvError(failure)
        error.add_note(result)  # the worker's traceback
        raise error

    def hang_up(self) -> None:
        """Tell the process to end."""
        self._connection.close()

    def wait(self) -> None:
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _death(self) -> EnvError:
        status = self._process.wait()
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        first, last = self.indices[0], self.indices[-1]
        return EnvError(f"the worker process of environments {first} to {last} of env={self._name} died: {how}")


def close(group: EnvGroup, workers: list[Worker]) -> None:
    for worker in workers:
        worker.hang_up()
    group.close()
    for worker in workers:
        worker.wait()
    workers.clear()


def shared_memory_file(num_bytes: int) -> io.IOBase:
    """An unnamed file in memory (where the system has no such thing, in the folder for temporary files)."""
    if hasattr(os, "memfd_create"):
        file: io.IOBase = os.fdopen(os.memfd_create("metta"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (the caller closes it)
    file.truncate(num_bytes)
    return file


def gymnasium_spec_bytes(name: str) -> bytes | None:
    """The registered spec of a Gymnasium id, for a process that has not run the script which registered it."""
    if name in METTAGRID_NAMES or ":" in name:
        return None
    import cloudpickle
    from gymnasium.envs.registration import load_env_creator

    from metta.envs.gymnasium_env import find_gymnasium_spec, package_of

    if package_of(name) is not None:
        return None
    spec = find_gymnasium_spec(name)
    entry_point = spec.entry_point
    if isinstance(entry_point, str) and entry_point.startswith("__main__:"):
        spec = copy.copy(spec)
        spec.entry_point = load_env_creator(entry_point)  # type: ignore[assignment]
    return cloudpickle.dumps(spec)


def main(connection_fd: int, memory_fd: int) -> None:
    """A worker's life: calls come through the pipe, its end is the end."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)  # the parent decides, and may need further steps to finish its epoch
    try:
        serve(Connection(connection_fd), memory_fd)
    except (EOFError, ConnectionError):
        pass  # the parent closed the pipe, or died


def serve(connection: Connection, memory_fd: int) -> None:
    group: EnvGroup | None = None
    while True:
        message = connection.recv_bytes()
        try:
            if not message:
                assert group is not None
                result: Any = group.step()
                reply = pickle.dumps((None, result)) if result else b""
            else:
                call, argument = pickle.loads(message)
                if call == "setup":
                    group, result = set_up(memory_fd, **argument), None
                else:
                    result = getattr(group, call)(argument)
                reply = pickle.dumps((None, result))
        except Exception as error:  # noqa: BLE001 (raised again in the parent)
            line = str(error) if isinstance(error, EnvError | ValueError) else f"{type(error).__name__}: {error}"
            reply = pickle.dumps((line, traceback.format_exc()))
        connection.send_bytes(reply)


def set_up(memory_fd: int, spec: EnvSpec, gymnasium_spec: bytes | None, num_envs: int, indices: range) -> EnvGroup:
    if gymnasium_spec is not None:
        import gymnasium

        registered = pickle.loads(gymnasium_spec)
        gymnasium.registry.setdefault(registered.id, registered)
    memory = mmap.mmap(memory_fd, Arrays.num_bytes(spec, num_envs))
    return EnvGroup(spec.name, spec.settings, Arrays.over(memory, spec, num_envs), num_envs, indices)
