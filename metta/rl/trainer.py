"""The training loop: resume, collect, learn, save. `train` is the whole of it; `Trainer` is what it works on."""

import ctypes
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import chz
import numpy as np
import torch

from metta.agent.agent_class import load_agent_class
from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvSpec
from metta.envs.make_env import make_env
from metta.envs.vec_env import EpisodeSeeds, VecEnv
from metta.errors import CheckpointError
from metta.rl.checkpoint_saver import CheckpointSaver, SaveError
from metta.rl.curves import Curves
from metta.rl.defaults import with_defaults
from metta.rl.ppo import Batch, PPOConfig, explained_variance, gae, update
from metta.rl.progress import Progress, make_progress
from metta.rl.random_state import random_state, restore_random_state, seed_everything
from metta.rl.rollout import Collector, RewardScaler, Rollout
from metta.rl.run_lock import RunLock
from metta.rl.stop_signals import StopSignals
from metta.rl.timers import Timers
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import TrainConfig, resume_config


def train(
    config: TrainConfig,
    given: frozenset[str] = frozenset(),
    keep_epochs: Callable[[], Collection[int]] = tuple,
    last_evaluation: Callable[[], str] = lambda: "none",
) -> int:
    """Train config.run to its total_timesteps, from its newest checkpoint where it has one.

    given: the keys that the user typed; of a run that exists only those are compared with its own configuration.
    keep_epochs: epochs that retention must spare; last_evaluation: what the display says of the newest score.
    Returns the exit status: 0 complete, 130 or 143 after a signal, 1 when a checkpoint could not be saved.
    """
    manager = TinyCheckpointManager(config.run, config.train_dir)
    with RunLock(manager.folder.parent), StopSignals() as signals:
        trainer = load_trainer(manager, config, given) or Trainer(config)
        progress = make_progress(trainer.config, trainer.agent_steps, last_evaluation)
        saver = CheckpointSaver(manager, trainer.config.keep_last, keep_epochs)
        try:
            return run_epochs(trainer, saver, signals, progress, manager.folder.parent)
        except (SaveError, OSError) as error:  # an OSError: the curves could not be written
            committed = max(manager.list_epochs(), default=0)
            progress.fail(
                f"{error}; {trainer.epoch - committed} epochs are unsaved: "
                f"with room made, the same command goes on from epoch {committed}"
            )
            return 1
        finally:
            trainer.close()


def run_epochs(
    trainer: "Trainer", saver: CheckpointSaver, signals: StopSignals, progress: Progress, run_dir: Path
) -> int:
    """Train until the run is complete or a signal asks to stop; returns the exit status."""
    if trainer.complete:
        progress.stop(
            f"is complete: epoch {trainer.epoch}, {trainer.agent_steps:,} agent steps; "
            "a larger total_timesteps= trains it further"
        )
        return 0
    progress.start()
    curves = Curves(run_dir, trainer.agent_steps)
    if trainer.epoch == 0:
        saver.save(trainer.agent, 0, trainer.state_dict())
    while not trainer.complete and signals.received is None:
        scalars = trainer.run_epoch()
        curves.add(scalars, trainer.agent_steps)
        progress.epoch(trainer.epoch, trainer.agent_steps, scalars, trainer.timers.seconds)
        saver.check()
        due = trainer.epoch % trainer.config.checkpoint_interval == 0
        if due or trainer.complete or signals.received is not None:
            with trainer.timers("save"):
                curves.flush()
                saver.save(trainer.agent, trainer.epoch, trainer.state_dict())
            progress.saved(trainer.epoch)
    saver.wait()
    curves.close()
    how = "complete" if trainer.complete else "stopped and saved; the same command goes on"
    progress.stop(f"{how}: epoch {trainer.epoch}, {trainer.agent_steps:,} agent steps")
    return 0 if signals.received is None else 128 + signals.received


def load_trainer(manager: TinyCheckpointManager, config: TrainConfig, given: frozenset[str]) -> "Trainer | None":
    """The run's trainer as its newest sound checkpoint left it; None where there is no checkpoint."""
    loaded = manager.load_latest()
    if loaded is None:
        return None
    _, agent, state = loaded
    if not isinstance(agent, PolicyAgent):
        raise CheckpointError(f"the agent in {manager.folder} is a {type(agent).__name__}, not a PolicyAgent")
    trainer = Trainer(resume_config(state["config"], config, given), agent)
    trainer.load_state_dict(state)
    return trainer


LARGE_IMAGE = 10_000  # numbers in an observation; two threads on a 10x10 grid beside a busy process: 80 steps/s


class Trainer:
    """One run in memory: agent, optimiser, environments. The same state goes on the same way, bit for bit."""

    def __init__(self, config: TrainConfig, agent: PolicyAgent | None = None):
        """Set up from the configuration; `agent` is one from a checkpoint, otherwise a new one is made."""
        spec = make_env_spec(config)
        self.config = config = with_defaults(config, spec)
        self.device = pick_device(config.device)
        set_threads(spec)
        keep_freed_memory()
        if agent is None:
            seed_everything(config.seed)
            agent = load_agent_class(config.agent)(spec, hidden_size=config.hidden_size, lstm=config.lstm)
        self.agent = agent.to(self.device)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)
        self.envs = VecEnv(
            config.env, config.num_envs, EpisodeSeeds(config.seed), config.num_workers, config.env_settings
        )
        self.timers = Timers()
        self.collector = Collector(self.envs, self.agent, config.horizon, self.timers)
        self.reward_scaler = RewardScaler(self.envs.batch_size, config.gamma)
        self.ppo = PPOConfig(**{name: getattr(config, name) for name in PPOConfig.__dataclass_fields__})
        self.epoch = 0
        self.agent_steps = 0
        self.envs.reset()

    @property
    def complete(self) -> bool:
        return self.agent_steps >= self.config.total_timesteps

    def run_epoch(self) -> dict[str, float]:
        """One rollout and its update; returns the epoch's scalars by their TensorBoard names."""
        config, began = self.config, time.perf_counter()
        learning_rate = config.learning_rate
        if config.anneal_lr:
            learning_rate *= 1 - self.agent_steps / config.total_timesteps
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        rollout = self.collector.collect()
        with self.timers("learn"):
            batch, variance = self._batch(rollout)
            losses = update(self.agent, self.optimizer, batch, self.ppo)
            self.agent.update_normalizers(rollout.observations)
        self.epoch += 1
        self.agent_steps += rollout.rewards.size
        scalars = {f"losses/{name}": value for name, value in losses.items()}
        scalars["losses/explained_variance"] = variance
        scalars["charts/learning_rate"] = learning_rate
        scalars["charts/steps_per_second"] = rollout.rewards.size / (time.perf_counter() - began)
        return scalars | episode_scalars(rollout)

    def _batch(self, rollout: Rollout) -> tuple[Batch, float]:
        """The rollout as PPO learns from it, and how much of the returns' variance the critic explained."""
        done = rollout.terminated | rollout.truncated
        values = rollout.values.cpu().numpy()
        advantages = gae(
            self.reward_scaler(rollout.rewards, done),
            values,
            rollout.last_values,
            rollout.bootstrap_values,
            rollout.terminated,
            rollout.truncated,
            self.config.gamma,
            self.config.gae_lambda,
        )
        returns = advantages + values
        batch = Batch(
            observations=rollout.observations,
            starts=torch.from_numpy(rollout.starts).to(self.device),
            actions=rollout.actions,
            log_probs=self.agent.distribution.log_prob_and_entropy(rollout.params, rollout.actions)[0],
            values=rollout.values,
            advantages=torch.from_numpy(advantages).to(self.device),
            returns=torch.from_numpy(returns).to(self.device),
            state=rollout.state,
        )
        return batch, explained_variance(values, returns)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs beside the agent; what changes nothing when left out is not here."""
        return {
            "config": chz.asdict(self.config),
            "epoch": self.epoch,
            "agent_steps": self.agent_steps,
            "optimizer": self.optimizer.state_dict(),
            "collector": self.collector.state_dict(),
            "reward_scaler": self.reward_scaler.state_dict(),
            "random": random_state(),
            "software": software(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; warns on stderr of whatever keeps the continuation from being exact."""
        self.epoch, self.agent_steps = state["epoch"], state["agent_steps"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.reward_scaler.load_state_dict(state["reward_scaler"])
        fresh = self.collector.load_state_dict(state["collector"])
        if fresh:
            afresh = f"({len(fresh)} of {self.envs.num_envs}); they begin afresh"
            inexact(f"{self.config.env} did not reproduce its episodes {afresh}")
        then, now = state["software"], software(self.device)
        changed = [f"{key} {then.get(key)} -> {now[key]}" for key in now if now[key] != then.get(key)]
        if changed:
            inexact(", ".join(changed))
        restore_random_state(state["random"])

    def close(self) -> None:
        self.envs.close()


def make_env_spec(config: TrainConfig) -> EnvSpec:
    """The environment's spec; ValueError where it cannot be made."""
    if config.env is None:
        raise ValueError(f"env= is needed for a new run: {config.run} has no checkpoint")
    env = make_env(config.env, config.env_settings)
    env.close()
    return env.spec


def pick_device(name: str) -> torch.device:
    """auto: the GPU where there is one. There, torch is told to be deterministic, and warns where it cannot be."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device={name}: torch sees no GPU here; device=cpu works")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def set_threads(env: EnvSpec) -> None:
    """One thread for small networks, where a second mostly waits for the first; all cores for large images.

    OMP_NUM_THREADS has the last word. The number of threads changes the last bits of sums, so it is part of what an
    exact continuation needs to be the same.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        large = env.observation_kind == "image" and math.prod(env.observation_shape) > LARGE_IMAGE
        torch.set_num_threads(os.cpu_count() or 1 if large else 1)


def keep_freed_memory() -> None:
    """Have the C library keep what torch frees, which is what it asks for next: Breakout 1.18 times as fast.

    By default glibc hands large blocks back to the system, and every page of the next one is a fault. Elsewhere nothing
    happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # as in malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


def software(device: torch.device) -> dict[str, str]:
    """What else the bits depend on."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def inexact(why: str) -> None:
    print(f"metta: this resume is not exact: {why}", file=sys.stderr)


def episode_scalars(rollout: Rollout) -> dict[str, float]:
    """Means over the episodes that ended in this rollout; nothing where none did."""
    episodes = rollout.episodes
    if not episodes:
        return {}
    scalars = {
        "charts/episodic_return": float(np.mean([episode.returns.mean() for episode in episodes])),
        "charts/episodic_length": float(np.mean([episode.length for episode in episodes])),
    }
    for name in sorted({name for episode in episodes for name in episode.metrics}):
        scalars[f"env/{name}"] = float(np.mean([e.metrics[name] for e in episodes if name in e.metrics]))
    return scalars
