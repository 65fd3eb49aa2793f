"""Making an agent of the class named by `agent=`: PolicyAgent, `package.module:MyAgent` or `path/to/file.py:Mine`."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from metta.agent.encoders import build_encoder
from metta.agent.picklable import make_picklable
from metta.agent.policy_agent import PolicyAgent
from metta.code_files import code_of, joint_digest
from metta.envs.env_spec import EnvSpec
from metta.errors import UserError, enumeration, one_line, say
from metta.files.portable_pickle import bare, dumps
from metta.user_code import GIVEN, load_place, module_name, split_place, users_code

SOURCE = "_metta_source"  # attribute of a class from a file, saved with it: the digest of that and its imports


def make_agent(name: Any, env: EnvSpec, **options: Any) -> PolicyAgent:
    """A new agent of that class, or the class of that name, given those of the options that the class takes.

    UserError for one that it does not take, unless that is what PolicyAgent has by itself.
    """
    agent_class = name if isinstance(name, type) else load_agent_class(name)
    taken = {option: value for option, value in options.items() if parameter(agent_class, option)}
    for option, value in options.items():
        ours = parameter(PolicyAgent, option)
        if option not in taken and (ours is None or ours.default != value):
            others = " and ".join(taken) or "no options"
            raise UserError(f"{option}={value}: agent={name} takes no {option}; it takes {others}")
    if agent_class is PolicyAgent:
        try:
            return PolicyAgent(env, **taken)
        except RuntimeError as error:  # torch's, of hidden_size
            raise UserError(f"hidden_size={taken.get('hidden_size')}: no such agent: {one_line(error)}") from error
    with users_code(f"agent={name}"):
        agent = agent_class(env, **taken)
        require_whole(agent, env, f"agent={name}")
        undo_compile(agent, f"agent={name}")
        make_picklable(agent)
        require_savable(agent, f"agent={name}")
        return agent


def require_whole(agent: PolicyAgent, env: EnvSpec, called: str) -> None:
    """UserError where a part that training needs is missing; gives parameters without a shape the one they need."""
    if "_modules" not in vars(agent):
        raise UserError(f"{called}: its __init__ does not call super().__init__(env)")
    if any(map(is_lazy, agent.parameters())):
        observations = np.zeros((1, *env.observation_shape), env.observation_dtype)
        with torch.no_grad():
            agent.eval()(torch.from_numpy(observations), agent.initial_state(1))
        agent.train()
    state, wanted = agent.initial_state(3), "wanted a tuple of tensors [batch_size, ...]"
    if not (isinstance(state, tuple) and all(isinstance(part, Tensor) for part in state)):
        raise UserError(f"{called}: initial_state returned a {type(state).__name__}; {wanted}")
    if shapes := [[*part.shape] for part in state if part.shape[:1] != (3,)]:
        raise UserError(f"{called}: initial_state(3) has {enumeration(shapes)}; {wanted}")


def undo_compile(agent: PolicyAgent, called: str) -> None:
    """Have the agent as every file has it, or a resume would go on with other kernels, and so with other bits."""
    undone = False
    for module in [*agent.modules()]:
        undone |= module._compiled_call_impl is not None
        module._compiled_call_impl = None
        for name, child in module.named_children():
            if bare(child) is not child:
                undone = True
                setattr(module, name, bare(child))
    if undone:
        say(f"metta: {called} trains without torch.compile, which no checkpoint keeps")


def require_savable(agent: PolicyAgent, called: str) -> None:
    """UserError, which names the attribute, where the agent holds what no file can keep."""
    if _refusal(agent) is None:
        return
    for place, module in agent.named_modules():
        for name, value in vars(module).items():
            if name != "_modules" and (why := _refusal(value)) is not None:
                where = f"{place}.{name}".lstrip(".")
                raise UserError(f"{called}: no file can keep its attribute {where}: {one_line(why)}")


def _refusal(content: Any) -> Exception | None:
    """Return what goes wrong when it is pickled."""
    try:
        dumps(content)
    except Exception as error:  # noqa: BLE001 (anybody's code)
        return error
    return None


def parameter(agent_class: type[PolicyAgent], option: str) -> inspect.Parameter | None:
    """The option as the class's `__init__` names it, or the `build_encoder` that `__init__` hands it on to, if any."""
    ours = agent_class.__mro__[: agent_class.__mro__.index(PolicyAgent) + 1]
    methods = [vars(cls)[name] for name in ("__init__", "build_encoder") for cls in ours if name in vars(cls)]
    for function in (*methods, build_encoder):
        parameters = inspect.signature(function).parameters
        if option in parameters:
            return parameters[option]
        if all(other.kind != other.VAR_KEYWORD for other in parameters.values()):
            break
    return None


def load_agent_class(name: str | None) -> type[PolicyAgent]:
    """The agent class of that name (None: PolicyAgent). UserError, in one line, says what was not found.

    A class from a file is marked to be saved by value: its checkpoints load where the file is not.
    """
    if name is None:
        return PolicyAgent
    found = load_place("agent", name, lambda value: is_agent(value) and value is not PolicyAgent, "agent class")
    place, class_name = split_place("agent", name)
    if not is_agent(found):
        raise UserError(f"agent={name}: {class_name} is not a subclass of metta.agent.policy_agent.PolicyAgent")
    if place.endswith(".py") and found.__module__ == module_name(Path(place)):
        setattr(found, SOURCE, joint_digest(Path(place)))
    return found


def is_outdated(agent_class: type[PolicyAgent], name: str | None) -> bool:
    """Whether the class that a checkpoint had differs from what is `name` now: in this script, or in a file."""
    if (now := GIVEN.get(name or "")) is not None:
        return code_of(now) != code_of(agent_class)
    source, path = getattr(agent_class, SOURCE, None), Path((name or "").rpartition(":")[0])
    return source is not None and path.is_file() and source != joint_digest(path)


def is_imported(agent_class: type[PolicyAgent]) -> bool:
    """Whether checkpoints have the class by name alone, so that its module's code may be another at a resume."""
    return not hasattr(agent_class, SOURCE) and agent_class.__module__ != "__main__"


def is_agent(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, PolicyAgent)
