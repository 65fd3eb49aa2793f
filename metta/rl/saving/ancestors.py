"""What a new run may begin with: another's agent (init=), or all of another's state (fork=).

A checkpoint of a run is named `RUN:EPOCH`, or `RUN` for its newest. torch is imported only to load one.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metta.envs.by_value import unpack
from metta.envs.env_spec import check_fit
from metta.envs.make_env import check_env, spec_of
from metta.errors import CheckpointError, UserError, enumeration, say
from metta.rl.saving.saved_config import checked_state, read_saved_config
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager, run_exists
from metta.rl.train_config import AGENT_OPTIONS, TrainConfig, fork_config, typed_places
from metta.run_folder import TrainDir

if TYPE_CHECKING:
    from metta.agent.policy_agent import PolicyAgent

AGENT_KEYS = frozenset({"agent", *AGENT_OPTIONS})  # what decides the shapes of an agent


def check_ancestor(config: TrainConfig, given: frozenset[str]) -> TrainConfig:
    """UserError unless the new run can begin with what its init= or fork= names; returns what it is trained with.

    Where init= decides the environment that stays open here.
    """
    if config.init is not None and config.fork is not None:
        raise UserError(f"init={config.init} fork={config.fork}: give one; a fork has the agent too")
    if config.fork is not None:
        manager, epoch = find_checkpoint("fork", config.fork, config.train_dir)
        saved = read_saved_config(manager.file("trainer", epoch), "env", "env_settings")
        unpack(saved["environment"], typed_places(config, given))
        forked = fork_config(saved["config"], config, given)
        check_env(forked.env_name)
        return forked
    if config.init is not None:
        if is_path(config.init):
            if not Path(config.init).is_file():
                raise UserError(f"init={config.init}: no such file")
        else:
            find_checkpoint("init", config.init, config.train_dir)
    return config


def is_path(text: str) -> bool:
    """Whether init= is an agent file, not a run."""
    return "/" in text or text.endswith(".pt")


def find_checkpoint(key: str, text: str, train_dir: str) -> tuple[TinyCheckpointManager, int]:
    """Find the checkpoint `RUN:EPOCH`, or the newest of `RUN`. UserError or CheckpointError where it is not there."""
    run, colon, number = text.partition(":")
    if colon and not (number.isascii() and number.isdecimal()):
        raise UserError(f"{key}={text}: expected RUN or RUN:EPOCH, with a number")
    manager = TinyCheckpointManager(run, train_dir)
    if not manager.exists():
        have = [other.name for other in TrainDir(train_dir).runs() if run_exists(other.name, train_dir)]
        raise UserError(f"{key}={text}: no run {run} with a checkpoint in {train_dir}: have {enumeration(have) or '-'}")
    epoch = int(number) if colon else manager.list_epochs()[-1]
    manager.file("agent", epoch, must_exist=True)
    return manager, epoch


# From here on torch is imported.


def forked(config: TrainConfig, given: frozenset[str]) -> tuple[TrainConfig, PolicyAgent, dict[str, Any], bool]:
    """Load what fork= names: configuration, agent, trainer state, and whether its unfinished episodes go on.

    They do where environment and settings are the same.
    """
    manager, epoch = find_checkpoint("fork", str(config.fork), config.train_dir)
    if ":" not in str(config.fork):
        epoch, agent, state = _newest(manager)
    else:
        agent, state = manager.load_agent(epoch), manager.load_trainer_state(epoch)
    read = checked_state(state, manager.file("trainer", epoch), "env", "env_settings")
    unpack(read["environment"], typed_places(config, given))
    saved = read["config"]
    parent = f"{manager.folder.parent.name}:{epoch}"
    ancestry = f"fork={parent} {saved.get('ancestry', '')}".strip()
    new = replace(fork_config(saved, config, given), fork=parent, init=None, ancestry=ancestry)
    if check_env(new.env_name) == agent.env.env:
        return new, agent, state, True
    spec = spec_of(new.env_name)
    check_fit(agent.env, spec)
    if spec.num_agents != agent.env.num_agents:
        agents = f"{spec.num_agents} agents, where fork={parent} has {agent.env.num_agents}"
        raise UserError(f"env={spec.env.label} has {agents}: a fork keeps what gives shape to its state")
    agent.env = spec
    return new, agent, state, False


def initialised(config: TrainConfig, given: frozenset[str]) -> tuple[TrainConfig, PolicyAgent]:
    """Load the agent that init= names, for the environment of this run: its own, where none is given.

    With agent=, hidden_size= or lstm= given, or in another environment, a new agent takes whatever has the same name
    and shape; what has not is said in one line. Seed everything beforehand.
    """
    from metta.agent.agent_class import make_agent

    old, found = _load_agent(config)
    if config.env is None:
        settings = {**old.env.env.settings, **config.env_settings}
        config = replace(config, env=old.env.env.name, env_settings=settings)
    spec = spec_of(config.env_name)
    options = {name: getattr(config, name) for name in AGENT_OPTIONS}
    if config.agent is None:
        options = {**options, **getattr(old, "options", {}), **{name: options[name] for name in options.keys() & given}}
    config = replace(config, **{**found, **{name: options[name] for name in AGENT_OPTIONS}})
    if not given & AGENT_KEYS and replace(old.env, env=spec.env, num_agents=spec.num_agents) == spec:
        old.env = spec
        return config, old
    new = make_agent(config.agent if "agent" in given else type(old), spec, **options)
    if unfit := transfer(old, new):
        say(f"metta: what does not fit of init={config.init} begins anew: {enumeration(unfit)}")
    return config, new


def transfer(old: PolicyAgent, new: PolicyAgent) -> list[str]:
    """Copy what has the same name and shape; returns the names of what has not. UserError where nothing has."""
    import torch

    theirs, unfit, fit = old.state_dict(), [], 0
    if old.env.observation_kind != new.env.observation_kind:
        theirs = {}
    if old.env.tokens != new.env.tokens:
        parts = new.named_modules()
        means_else = {f"{name}.{tensor}" for name, part in parts for tensor in getattr(part, "BY_NUMBER", ())}
        theirs = {name: tensor for name, tensor in theirs.items() if name not in means_else}
    trained = dict(new.named_parameters())
    with torch.no_grad():
        for name, tensor in new.state_dict().items():
            known = theirs.get(name)
            if known is not None and known.shape == tensor.shape and known.dtype == tensor.dtype:
                tensor.copy_(known)
                fit += name in trained
            elif name in trained:
                shape = "x".join(map(str, tensor.shape))
                unfit.append(f"{name} ({shape})")
    if not fit:
        raise UserError(f"init=: nothing of the agent of {old.env.env.label} fits one for {new.env.env.label}")
    return unfit


def _load_agent(config: TrainConfig) -> tuple[PolicyAgent, dict[str, Any]]:
    """Load what init= names; also what the new configuration says of it: where it is from."""
    from metta.agent.policy_agent import PolicyAgent
    from metta.agent.untrusted.agent_file import load_agent_file, require_bounded

    text, ancestry, own = str(config.init), "", {}
    if is_path(text):
        text = str(Path(text).resolve())
        agent = load_agent_file(text, config.trust)
        if config.env is None and not config.trust and isinstance(agent, PolicyAgent):
            require_bounded(agent.env.env, text)
    else:
        manager, epoch = find_checkpoint("init", text, config.train_dir)
        if ":" in text:
            agent = manager.load_agent(epoch)
        else:
            epoch, agent, _ = _newest(manager)
        text = f"{manager.folder.parent.name}:{epoch}"
        saved = {}
        with suppress(CheckpointError):  # without it the agent is whole
            read = read_saved_config(manager.file("trainer", epoch))
            unpack(read["environment"], [config.env])
            saved = read["config"]
        ancestry = saved.get("ancestry", "")
        own = {"agent": saved.get("agent")} if config.agent is None else {}
    if not isinstance(agent, PolicyAgent):
        raise CheckpointError(f"init={text}: a {type(agent).__name__}, not a PolicyAgent")
    return agent, {"init": text, "ancestry": f"init={text} {ancestry}".strip(), **own}


def _newest(manager: TinyCheckpointManager) -> tuple[int, Any, dict[str, Any]]:
    loaded = manager.load_latest()
    if loaded is None:
        raise CheckpointError(f"no checkpoint in {manager.folder}")
    return loaded
