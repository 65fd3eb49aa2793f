"""One run in memory: `Trainer`, and how it comes from the newest checkpoint, from another run, or anew."""

import math
import os
import time
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metta.agent.agent_class import is_imported, is_outdated, make_agent
from metta.agent.policy_agent import PolicyAgent
from metta.envs.by_value import pack, unpack
from metta.envs.env_spec import check_fit
from metta.envs.make_env import spec_of
from metta.envs.sources import code_places
from metta.envs.vec_env import Episode
from metta.errors import CheckpointError, TrainingError, UserError, enumeration, say
from metta.machine import make_deterministic, pick_device, set_threads, software
from metta.moments import merged
from metta.rl.defaults import with_defaults
from metta.rl.learning.crew import Crew
from metta.rl.learning.ppo import explained_variance
from metta.rl.learning.random_state import seeded
from metta.rl.learning.replica import SET_RATE, switches_of
from metta.rl.saving.ancestors import forked, initialised
from metta.rl.saving.run_lock import RunLock
from metta.rl.saving.saved_config import checked_state
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.rl.train_config import AGENT_OPTIONS, PLACES, TrainConfig, given_keys, going_on, gone_keys, typed_places
from metta.run_folder import RunFolder
from metta.user_code import code_digest


def load_trainer(manager: TinyCheckpointManager, config: TrainConfig, given: frozenset[str]) -> "Trainer | None":
    """The run's trainer as its newest sound checkpoint left it; None where there is no checkpoint."""
    loaded = manager.load_latest()
    if loaded is None:
        return None
    epoch, agent, state = loaded
    if not isinstance(agent, PolicyAgent):
        raise CheckpointError(f"the agent in {manager.folder} is a {type(agent).__name__}, not a PolicyAgent")
    read = checked_state(state, manager.file("trainer", epoch))
    unpack(read["environment"], typed_places(config, given))
    saved = read["config"]
    new, changed = going_on(saved, epoch, config, given)
    if changed is not None:
        if changed:
            values = " ".join(f"{name}={new}" for name, (_, new) in changed.items())
            say(f"metta: run {config.run} has learned nothing yet, and begins anew with {values}")
        again = [key for key in AGENT_OPTIONS if new.init is not None and saved.get(key)]
        return new_trainer(new, given.union(again))
    trainer = Trainer(new, agent)
    for name, value in gone_keys(saved).items():
        inexact(f"{name}={value}, with which run {config.run} was started, is no longer a key")
    if is_outdated(type(agent), trainer.config.agent):
        said = f"agent={trainer.config.agent} has changed since run {config.run} began, and the run keeps its own"
        say(f"metta: {said}")
    if read["epoch"] != epoch:
        inexact(f"{manager.file('trainer', epoch)} was saved as epoch {read['epoch']} and is {epoch} by its name")
    try:
        trainer.load_state_dict({**state, "epoch": epoch})
    except KeyError as error:
        raise CheckpointError(f"{manager.file('trainer', epoch)} is not of `metta train`: it has no {error}") from error
    return trainer


def new_trainer(config: TrainConfig, given: frozenset[str]) -> "Trainer":
    """The trainer of a run that has no checkpoint: with the agent of its init=, all the state of its fork=, or anew."""
    if config.init is not None:
        with seeded(config.seed):
            return Trainer(*initialised(config, given))
    if config.fork is None:
        return Trainer(config)
    new, agent, state, same_env = forked(config, given)
    trainer = Trainer(new, agent)
    trainer.load_state_dict(state, go_on=same_env)
    if "learning_rate" in given:
        trainer.learning_rate = None
    return trainer


LARGE_IMAGE = 10_000  # numbers in an observation; two threads on a 10x10 grid beside a busy process: 80 steps/s


class Trainer:
    """One run in memory: agent, optimiser, environments. The same state goes on the same way, bit for bit."""

    def __init__(self, typed: TrainConfig, agent: PolicyAgent | None = None):
        """Set up from the configuration; `agent` is one from a checkpoint, otherwise a new one is made."""
        if agent is None and (typed.init or typed.fork):
            raise UserError("a trainer with init= or fork= is made by Trainer.resume(config)")
        self.spec = spec = spec_of(typed.env_name)
        self.device = pick_device(typed.device)
        make_deterministic(self.device)
        self.config = config = with_defaults(typed, spec, self.device.type)
        # A second thread of a small network mostly waits for the first; for large images each shard has its cores.
        large = any(math.prod(image.observation_shape) > LARGE_IMAGE for image in spec.images)
        set_threads((os.cpu_count() or 1) // config.num_shards if large else 1)
        if agent is None:
            with seeded(config.seed):
                agent = make_agent(typed.agent, spec, **{name: getattr(config, name) for name in AGENT_OPTIONS})
        check_fit(agent.env, spec)
        agent.env = spec  # as it is called now, should its file have moved
        self.agent = agent.to(self.device)
        self.environment = pack(spec.env, config.loss, config.optimizer)
        code = code_places(spec.env)
        code += [place for place in (config.on_epoch, config.loss, config.optimizer) if place is not None]
        if config.agent is not None and is_imported(type(agent)):
            code.append(config.agent)
        self._code = {f"code of {Path(place).name}": code_digest(place) for place in code}
        self.epoch = 0
        self.agent_steps = 0
        self._learning_rate: float | None = None
        self.crew = Crew(config, self.agent)
        self.replica, self.timers = self.crew.replica, self.crew.timers
        self._left = self._traces()  # as the last epoch left agent and optimiser

    @property
    def complete(self) -> bool:
        return self.agent_steps >= self.config.total_timesteps

    @property
    def learning_rate(self) -> float:
        """Of the next epoch: what was set, from then on; where nothing was, the configuration's, annealed."""
        if self._learning_rate is not None:
            return self._learning_rate
        config = self.config
        return config.learning_rate * (max(0, 1 - self.agent_steps / config.total_timesteps) if config.anneal_lr else 1)

    @learning_rate.setter
    def learning_rate(self, value: float | None) -> None:
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"learning_rate={value}: must be 0 or more, or None for the configuration's")
        self._learning_rate = None if value is None else float(value)

    def run_epoch(self) -> dict[str, float]:
        """One rollout and its update; returns the epoch's scalars by their TensorBoard names."""
        self.settle()
        began, learning_rate = time.perf_counter(), self.learning_rate
        episodes: list[Episode] = list(chain(*self.crew.everywhere("collect", self.epoch)))
        with self.timers("learn"):
            answers = self.crew.everywhere("learn", self.epoch, learning_rate)
        losses, of_critic = answers[0][0], merged(np.concatenate([moments for _, moments in answers]))
        self._require_finite(losses, self.epoch + 1)
        self._left = self._traces()
        steps = int(of_critic.count[0])  # where there was an agent
        self.epoch += 1
        self.agent_steps += steps
        scalars = {f"losses/{name}": value for name, value in losses.items()}
        scalars["losses/explained_variance"] = explained_variance(of_critic)
        scalars["charts/learning_rate"] = learning_rate
        scalars["charts/steps_per_second"] = steps / (time.perf_counter() - began)
        return scalars | episode_scalars(episodes)

    def _require_finite(self, losses: dict[str, float], epoch: int) -> None:
        """Raise TrainingError where what was learned is no number: no checkpoint may hold it."""
        spoilt = [name for name, value in losses.items() if not math.isfinite(value)]
        spoilt += [name for name, parameter in self.agent.named_parameters() if not parameter.isfinite().all()]
        if spoilt:
            cure = f"a lower learning_rate= than {self.config.learning_rate:g} may help"
            raise TrainingError(f"epoch {epoch} made {enumeration(spoilt)} infinite or NaN: {cure}")

    def settle(self) -> None:
        """Take in what code outside changed since the last epoch: the agent's tensors, the optimiser's settings."""
        traces = self._traces()
        if traces == self._left:
            return
        if traces[0] != self._left[0]:
            raise UserError("the agent's parameters were replaced by others: change them in place, as copy_ does")
        first, *others = self.replica.rates
        if traces[1] != self._left[1] and first and not others:
            self.learning_rate = traces[1][0] / first
        else:  # of several groups each has what was set for it
            for group, now, before in zip(self.replica.optimizer.param_groups, traces[1], self._left[1], strict=True):
                if now != before:
                    group[SET_RATE] = now
        self.crew.everywhere("adopt", self.agent.state_dict(), switches_of(self.agent), self.replica.optimizer_state())
        self._left = traces

    def _traces(self) -> tuple[Any, ...]:
        """What shows that the agent's tensors or the optimiser's settings are other ones."""
        optimizer = self.replica.optimizer
        ids = [id(parameter) for parameter in self.agent.parameters()]
        rates = [group.get("lr") for group in optimizer.param_groups]
        if self.crew.alone:  # nobody to pass the others on to
            return ids, rates
        settings = [{**group, "params": None} for group in optimizer.param_groups]
        floats = [tensor for tensor in self.agent.state_dict().values() if tensor.is_floating_point()]
        norms = torch.stack([norm.double() for norm in torch._foreach_norm(floats)]).tolist()
        return ids, rates, norms, repr(settings), len(optimizer.state), repr(switches_of(self.agent))

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs beside the agent; what changes nothing when left out is not here."""
        self.settle()
        self._require_finite({}, self.epoch)
        replica, shards = self.replica, list(chain(*self.crew.everywhere("state_dict")))
        discounted = np.concatenate([shard.pop("discounted") for shard in shards])
        return {
            "config": {name: value for name, value in asdict(self.config).items() if name not in PLACES},
            "environment": self.environment,
            "epoch": self.epoch,
            "agent_steps": self.agent_steps,
            "learning_rate": self._learning_rate,
            "optimizer": replica.optimizer_state(),
            "shards": shards,
            "reward_scaler": {"discounted": discounted, **replica.scaler.state_dict()},
            "software": self._software(),
        }

    def load_state_dict(self, state: dict[str, Any], go_on: bool = True) -> None:
        """Go on from `state`; warns on stderr of whatever keeps the continuation from being exact.

        go_on: with its unfinished episodes, else with new ones.
        """
        self.epoch, self.agent_steps = state["epoch"], state["agent_steps"]
        self._learning_rate = state["learning_rate"]
        discounted = state["reward_scaler"]["discounted"]
        shards = state["shards"] if go_on else [without_actions(shard) for shard in state["shards"]]
        config = self.config
        ends = np.cumsum([len(shard["episodes"]["returns"]) for shard in shards])
        shards = [{**s, "discounted": d} for s, d in zip(shards, np.split(discounted, ends[:-1]), strict=True)]
        fresh = sum(self.crew.everywhere("load_state_dict", state["optimizer"], state["reward_scaler"], shards))
        self._left = self._traces()
        if not go_on:
            say(f"metta: with another env= or env.KEY= the unfinished episodes of fork={config.fork} begin afresh")
        elif fresh:
            afresh = f"({fresh} of {config.num_envs}); they begin afresh"
            inexact(f"{config.env} did not reproduce its episodes {afresh}")
        then, now = state["software"], self._software()
        changed = [f"{key} {then.get(key)} -> {now[key]}" for key in now if now[key] != then.get(key, now[key])]
        if changed:
            inexact(", ".join(changed))

    @classmethod
    def resume(cls, run: TrainConfig | str) -> "Trainer":
        """The run's trainer from its newest checkpoint, or a new one where it has none."""
        config = run if isinstance(run, TrainConfig) else TrainConfig(run=run)
        manager = TinyCheckpointManager(config.run, config.train_dir)
        return load_trainer(manager, config, given_keys(config)) or new_trainer(config, given_keys(config))

    def save(self) -> None:
        """Save a checkpoint of this epoch. RunLockedError where another process trains the run."""
        config = self.config
        with RunLock(RunFolder(config.train_dir, config.run).lock):
            TinyCheckpointManager(config.run, config.train_dir).save_checkpoint(
                self.agent, self.epoch, self.state_dict()
            )

    def _software(self) -> dict[str, str]:
        """What decides the last bits."""
        return software(self.device) | self._code

    def close(self) -> None:
        """End the worker processes and close the environments."""
        self.crew.close()


def inexact(why: str) -> None:
    say(f"metta: this resume is not exact: {why}")


def without_actions(shard: dict[str, Any]) -> dict[str, Any]:
    """A shard's state with no step taken in its unfinished episodes: none comes back, so the next ones begin."""
    episodes = shard["episodes"]
    return {**shard, "episodes": {**episodes, "actions": [actions[:0] for actions in episodes["actions"]]}}


def episode_scalars(episodes: list[Episode]) -> dict[str, float]:
    """Means over the episodes that ended in this rollout; nothing where none did."""
    if not episodes:
        return {}
    scalars = {
        "charts/episodic_return": float(np.mean([episode.mean_return for episode in episodes])),
        "charts/episodic_length": float(np.mean([episode.length for episode in episodes])),
    }
    for name in sorted({name for episode in episodes for name in episode.metrics}):
        scalars[f"env/{name}"] = float(np.mean([e.metrics[name] for e in episodes if name in e.metrics]))
    return scalars
