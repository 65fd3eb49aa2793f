"""From an agent file to rows in eval.db: load, play fixed seeds, store."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from metta.agent.policy_agent import PolicyAgent
from metta.agent.untrusted.agent_file import load_agent_file, require_bounded
from metta.envs.by_value import unpack
from metta.envs.env_spec import MOST_SEED, WRAPPERS, AnyEnv, EnvName, without_folders
from metta.envs.make_env import spec_of
from metta.envs.sources import code_places
from metta.envs.vec_env import Episode
from metta.errors import CheckpointError, UserError, one_line, say
from metta.eval.agent_files import file_crc
from metta.eval.eval_db import EpisodeRow, open_scores, scored_env
from metta.eval.statistics import Score
from metta.keys import shown, whole
from metta.machine import pick_device
from metta.rl.saving.saved_config import newest_config
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.run_folder import RunFolder, absolute
from metta.sim.recording import recorded_code, recorded_places, recording_path, save_recordings
from metta.sim.simulation import SimulationPool, default_num_envs
from metta.user_code import GIVEN, code_digest, failing, remembered


@dataclass(frozen=True)
class LoadedAgent:
    """An agent, and whose its scores are."""

    agent: PolicyAgent
    agent_crc: str  # fingerprint of the file
    run: str | None  # under which scores are stored; None: nowhere
    epoch: int
    untrusted: Path | None = None  # the file, where nobody trusts it

    def own_env(self) -> EnvName:
        """Return the environment that it was trained on. UserError where an untrusted file may not choose it."""
        if self.untrusted is not None:
            require_bounded(self.agent.env.env, self.untrusted)
        return self.agent.env.env


class PolicyEvaluator:
    """Evaluates checkpoints of the runs in train_dir: scores go to eval.db there, actions to the run's `replays/`.

    Any two agents evaluated with the same env, seed and episodes meet the same episodes. Environments and processes are
    kept from one evaluation to the next, so evaluate many checkpoints with one evaluator, of which threads take turns;
    close it when done.
    """

    def __init__(
        self,
        train_dir: str | Path = "./train_dir",
        device: str = "cpu",
        num_envs: int | None = None,
        num_workers: int | None = None,
        eval_db: str | Path | None = None,
        executor: Executor | None = None,
    ):
        """num_envs: copies of the environment that play at once in a process; None chooses by episodes and agents.

        num_workers: processes that help this one; None: one for each further core, once that pays. That changes the
        speed, never a result. eval_db: where scores go, a path or a URL; None: eval.db in train_dir. executor: any of
        concurrent.futures', plays the episodes in place of processes here; the database is written here alone.
        """
        self.train_dir = absolute(train_dir)
        self.eval_db = None if eval_db is None else absolute(eval_db)
        if executor is not None and not hasattr(executor, "submit"):
            raise UserError(f"executor={shown(executor)}: not an executor as concurrent.futures has them")
        for name, value, least in (("num_envs", num_envs, 1), ("num_workers", num_workers, 0)):
            if value is not None and whole(name, value) < least:
                raise UserError(f"{name}={value}: must be at least {least}")
        self.executor = executor
        self.device = str(pick_device(device))
        self.num_envs = num_envs
        self.num_workers = num_workers
        self._simulations: SimulationPool | None = None
        self._key: Any = None
        self._code = ""  # of the environment in the simulations
        self._turn = threading.Lock()  # of the threads that play

    def evaluate(
        self,
        run: str,
        epoch: int,
        env: AnyEnv | None = None,
        episodes: int = 100,
        seed: int = 0,
        sampled: bool = False,
    ) -> Score:
        """Play episodes of seeds `seed`, `seed + 1`, ... with the run's agent of that epoch, and store the scores.

        Returns what `EvalDB.get_scores` does: earlier episodes of this agent with other seeds count too.
        env None: the environment it was trained on. sampled: draw actions, as training does, where an agent alone in
        its environment else takes the likeliest; these scores are kept apart. CheckpointError where the agent cannot be
        read, UserError where it cannot act in `env`.
        """
        with remembered():
            return self.score(self.load(run, epoch), env, episodes, seed, sampled)

    def load(self, run: str, epoch: int) -> LoadedAgent:
        """Load the run's agent of that epoch, and its environment where only the run has its code.

        CheckpointError if the agent cannot be read.
        """
        epoch = whole("epoch", epoch)
        manager = TinyCheckpointManager(run, self.train_dir)
        if (saved := newest_config(manager)) is not None:
            unpack(saved["environment"])
        path = manager.file("agent", epoch)
        return LoadedAgent(*load_with_crc(path, lambda: manager.load_agent(epoch)), run, epoch)

    def load_file(self, path: str | Path, trust: bool = False, run: str | None = None, epoch: int = 0) -> LoadedAgent:
        """Load an agent from elsewhere, running none of its code unless trusted. Scores are stored only under `run`.

        UserError where they would replace those of that run's own agent of the epoch.
        """
        agent, agent_crc = load_with_crc(Path(path), lambda: load_agent_file(path, trust=trust))
        check_acts(agent, path)
        loaded = LoadedAgent(agent, agent_crc, run, epoch, None if trust else Path(path))
        if run is None:
            return loaded
        own = TinyCheckpointManager(run, self.train_dir).file("agent", epoch)
        if (own_crc := file_crc(own)) not in (None, agent_crc):
            raise UserError(f"run={run} epoch={epoch} is another agent, {own}: store the scores of {path} elsewhere")
        if own_crc is None and open_scores(self.train_dir, self.eval_db).agents(run, epoch) - {agent_crc}:
            raise UserError(f"run={run} epoch={epoch} has another agent's scores: store those of {path} elsewhere")
        return loaded

    def score(
        self,
        loaded: LoadedAgent,
        env: AnyEnv | None = None,
        episodes: int = 100,
        seed: int = 0,
        sampled: bool = False,
    ) -> Score:
        """Do what `evaluate` does, with an agent that is loaded already."""
        with self._turn:
            return self.begin(loaded, env, episodes, seed, sampled)()

    def begin(
        self,
        loaded: LoadedAgent,
        env: AnyEnv | None = None,
        episodes: int = 100,
        seed: int = 0,
        sampled: bool = False,
    ) -> Callable[[], Score]:
        """Have the executor begin what `score` does; returns what waits for it, stores and returns the score.

        Without an executor nothing begins before that.
        """
        simulations = self._simulate(env or loaded.own_env(), episodes, seed)
        name = simulations.spec.env
        label = scored_env(name.label, sampled)
        if loaded.run is not None:
            own, run = loaded.agent.env.env, RunFolder(self.train_dir, loaded.run)
            require_same_files(name, [own.name, *own.wrappers, *recorded_places(run, label)])
        playing, code = simulations.begin(loaded.agent, range(seed, seed + episodes), sampled), self._code
        return lambda: self._store(loaded, name, label, code, playing())

    def _store(self, loaded: LoadedAgent, env: EnvName, label: str, code: str, played: list[Episode]) -> Score:
        """Store the rows and recordings of what was played; returns the score.

        code: of the environment. Scores that this agent had in an earlier version of it are replaced, and that is said.
        """
        rows = [EpisodeRow(e.seed, e.mean_return, e.length, e.metrics) for e in played]
        if loaded.run is None:
            return Score.of([row.reward for row in rows])
        path = recording_path(RunFolder(self.train_dir, loaded.run), loaded.epoch, label)
        of, edited = f"run={loaded.run} epoch={loaded.epoch}", recorded_code(path)[1] not in ("", code)
        if edited:
            say(f"metta: the code of {label} has changed: scores of {of} are replaced")
        db = open_scores(self.train_dir, self.eval_db)
        db.record(loaded.run, loaded.epoch, label, rows, loaded.agent_crc, anew=edited)
        try:
            save_recordings(path, played, [env.name, *env.wrappers], code)
        except (OSError, UserError) as error:  # as where the run is somebody else's
            say(f"metta: scored, but no recording of {of} kept: {one_line(error)}")
        stored = db.get_scores(loaded.run, loaded.epoch, label, sampled=None)
        return stored.get(label) or Score.of([row.reward for row in rows])  # its file may have been replaced meanwhile

    def evaluate_random(self, env: AnyEnv, episodes: int = 100, seed: int = 0) -> Score:
        """Score a random agent on the same episodes; the score is not stored."""
        with self._turn:
            played = self._simulate(env, episodes, seed).begin(None, range(seed, seed + episodes))()
        return Score.of([e.mean_return for e in played])

    def _simulate(self, env: AnyEnv, episodes: int, seed: int) -> SimulationPool:
        """Reuse the last evaluation's pool if env, settings and number of episodes are unchanged."""
        episodes, seed = whole("episodes", episodes), whole("seed", seed)
        if episodes < 1:
            raise UserError(f"episodes={episodes}: must be at least 1")
        if seed < 0 or seed + episodes - 1 > MOST_SEED:
            raise UserError(f"seed={seed} episodes={episodes}: seeds are 0 to {MOST_SEED}")
        env = EnvName.of(env)
        key = (env, GIVEN.get(env.name), episodes)
        if self._simulations is None or self._simulations.closed or key != self._key:
            self.close()
            spec = spec_of(env)
            self._code = " ".join(map(code_digest, code_places(spec.env)))
            num_envs = min(self.num_envs or default_num_envs(spec, episodes), episodes)
            self._simulations = SimulationPool(spec, num_envs, self.num_workers, self.device, self.executor)
            self._key = key
        return self._simulations

    def close(self) -> None:
        if self._simulations is not None:
            self._simulations.close()
        self._simulations = self._key = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_same_files(env: EnvName, others: Sequence[str]) -> None:
    """UserError where one of `others` has a place's name and is of another file: the scores of both would be one's.

    A file that has moved, and a copy, are the same.
    """
    for key, place in [("env", env.name), *((f"env.{WRAPPERS}", place) for place in env.wrappers)]:
        for other in others:
            mine, theirs = (Path(name.partition(".py:")[0] + ".py") for name in (place, other))
            alike = other != place and without_folders(other) == without_folders(place)
            if alike and theirs.is_file() and theirs.read_bytes() != mine.read_bytes():
                raise UserError(f"{key}={place}: this run has another file by that name, {other}: rename one")


def load_with_crc(path: Path, load: Callable[[], nn.Module]) -> tuple[PolicyAgent, str]:
    """Load the agent in a file, with the fingerprint of that very file: again if it was replaced meanwhile.

    CheckpointError if it holds something else.
    """
    while True:
        before, agent = file_crc(path), load()
        if not isinstance(agent, PolicyAgent):
            raise CheckpointError(f"{path} holds a {type(agent).__name__}, which is no metta agent")
        if before and file_crc(path) == before:
            return agent, before


def check_acts(agent: PolicyAgent, path: str | Path) -> None:
    """Raise CheckpointError unless the agent can act: a trusted file may lack anything that an agent has."""
    with failing(f"{path} holds an agent that cannot act", kind=CheckpointError):
        observations = np.zeros((1, *agent.env.observation_shape), agent.env.observation_dtype)
        agent.act(observations, agent.initial_state(1), np.ones(1, dtype=bool))
