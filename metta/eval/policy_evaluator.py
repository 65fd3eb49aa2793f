"""From an agent file to rows in eval.db: load, play fixed seeds, store."""

import math
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import nn

from metta.agent.agent_file import load_agent_file
from metta.agent.policy_agent import PolicyAgent
from metta.envs.make_env import make_env
from metta.envs.vec_env import VecEnv
from metta.errors import CheckpointError
from metta.eval.eval_db import EpisodeRow, EvalDB, Score
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.sim.recording import recording_path, save_recordings
from metta.sim.simulation import dealt_envs, default_num_envs, default_num_workers, make_player, play_episodes

LARGEST_OBSERVATION = 10**8  # numbers: beyond every environment, and within every memory


class PolicyEvaluator:
    """Evaluates checkpoints of the runs in train_dir: scores go to eval.db there, actions to the run's `replays/`.

    Any two agents evaluated with the same env, seed and episodes meet the same episodes. The environments are kept
    from one evaluation to the next, so evaluate many checkpoints with one evaluator; close it when done.
    """

    def __init__(self, train_dir: str | Path = "./train_dir", device: str = "cpu", num_envs: int | None = None):
        """num_envs: copies of the environment that play at once; None chooses by the number of agents in it."""
        self.train_dir = Path(train_dir)
        self.device = device
        self.num_envs = num_envs
        self._envs: VecEnv | None = None
        self._envs_key: Any = None

    def evaluate(
        self,
        run: str,
        epoch: int,
        env: str | None = None,
        episodes: int = 100,
        seed: int = 0,
        env_settings: dict[str, Any] | None = None,
    ) -> Score:
        """Play episodes of seeds `seed`, `seed + 1`, ... with the run's agent of that epoch, and store the scores.

        Returns what `EvalDB.get_scores` does: earlier episodes of this agent with other seeds count too.
        env None: the environment it was trained on. CheckpointError where the agent cannot be read, ValueError where it
        cannot act in `env`.
        """
        manager = TinyCheckpointManager(run, self.train_dir)
        agent = as_agent(manager.load_agent(epoch), manager.folder)
        return self._score(agent, manager.file("agent", epoch), run, epoch, env, episodes, seed, env_settings)

    def evaluate_file(
        self,
        path: str | Path,
        env: str | None = None,
        episodes: int = 100,
        seed: int = 0,
        env_settings: dict[str, Any] | None = None,
        trust: bool = False,
        run: str | None = None,
        epoch: int = 0,
    ) -> Score:
        """As `evaluate`, for a file from elsewhere: runs no code unless trusted; stored only under `run`."""
        agent = as_agent(load_agent_file(path, trust=trust), path)
        check_acts(agent, path)
        return self._score(agent, Path(path), run, epoch, env, episodes, seed, env_settings)

    def evaluate_random(
        self, env: str, episodes: int = 100, seed: int = 0, env_settings: dict[str, Any] | None = None
    ) -> Score:
        """What a random agent scores on the same episodes; not stored."""
        envs = self._deal(env, env_settings or {}, seed, episodes)
        return Score.of([float(e.returns.mean()) for e in play_episodes(envs, make_player(None, envs))])

    def _score(
        self,
        agent: PolicyAgent,
        path: Path,
        run: str | None,
        epoch: int,
        env: str | None,
        episodes: int,
        seed: int,
        env_settings: dict[str, Any] | None,
    ) -> Score:
        if env is None:
            env, env_settings = agent.env.name, {**agent.env.settings, **(env_settings or {})}
        envs = self._deal(env, env_settings or {}, seed, episodes)
        agent = agent.to(self.device).eval()
        played = play_episodes(envs, make_player(agent, envs))
        rows = [EpisodeRow(e.seed, float(e.returns.mean()), e.length, e.metrics) for e in played]
        if run is not None:
            save_recordings(recording_path(self.train_dir / run, epoch, envs.spec.label), played)
            db = EvalDB(self.train_dir / "eval.db")
            db.record(run, epoch, envs.spec.label, rows, fingerprint(path))
            return db.get_scores(run, epoch, envs.spec.label)[envs.spec.label]
        return Score.of([row.reward for row in rows])

    def _deal(self, env: str, settings: dict[str, Any], seed: int, episodes: int) -> VecEnv:
        """Environments dealt these episodes: those of the last evaluation where it was the same."""
        key = (env, tuple(sorted(settings.items())), seed, episodes)
        if key != self._envs_key:
            self.close()
            probe = make_env(env, settings)
            probe.close()
            num_envs = min(self.num_envs or default_num_envs(probe.spec, episodes), episodes)
            num_workers = default_num_workers(probe.spec)
            self._envs = dealt_envs(env, settings, seed, episodes, num_envs, num_workers)
            self._envs_key = key
        assert self._envs is not None
        return self._envs

    def close(self) -> None:
        if self._envs is not None:
            self._envs.close()
        self._envs = self._envs_key = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def as_agent(loaded: nn.Module, path: str | Path) -> PolicyAgent:
    """The module as what it must be. CheckpointError otherwise."""
    if not isinstance(loaded, PolicyAgent):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, which is no metta agent")
    return loaded


def check_acts(agent: PolicyAgent, path: str | Path) -> None:
    """CheckpointError unless the agent can act: a stranger's file may lack anything that an agent has."""
    try:
        if math.prod(agent.env.observation_shape) > LARGEST_OBSERVATION:
            raise ValueError(f"observations of shape {agent.env.observation_shape}")
        observations = np.zeros((1, *agent.env.observation_shape), agent.env.observation_dtype)
        agent.act(observations, agent.initial_state(1), np.ones(1, dtype=bool))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path} holds an agent that cannot act: {reason}") from error


def fingerprint(path: Path) -> str:
    """Of a .pt file's content: the CRC of its members' CRCs, 8 hexadecimal digits."""
    with zipfile.ZipFile(path) as archive:
        members = "".join(f"{member.filename}:{member.CRC};" for member in archive.infolist())
    return f"{zlib.crc32(members.encode()):08x}"
