"""Making an agent of the class named by `agent=`: PolicyAgent, `package.module:MyAgent` or `path/to/file.py:Mine`."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from metta.agent.agent_name import split_agent_name
from metta.agent.encoders import build_encoder
from metta.agent.policy_agent import PolicyAgent
from metta.envs.env_spec import EnvSpec
from metta.errors import UserError

SOURCE = "_metta_source"  # attribute of a class from a file, saved with it: the file's digest


def make_agent(name: str | None, env: EnvSpec, **options: Any) -> PolicyAgent:
    """A new agent of the class of that name, given those of the options that the class takes.

    UserError for one that it does not take, unless that is what PolicyAgent has by itself.
    """
    agent_class = load_agent_class(name)
    taken = {option: value for option, value in options.items() if parameter(agent_class, option)}
    for option, value in options.items():
        ours = parameter(PolicyAgent, option)
        if option not in taken and (ours is None or ours.default != value):
            others = " and ".join(taken) or "no options"
            raise UserError(f"{option}={value}: agent={name} takes no {option}; it takes {others}")
    return agent_class(env, **taken)


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
    place, class_name = split_agent_name(name)
    module = _module_from_file(name, Path(place)) if place.endswith(".py") else _module(name, place)
    found = getattr(module, class_name, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if is_agent(value) and value is not PolicyAgent]
        raise UserError(f"agent={name}: no {class_name} in {place}; it has {', '.join(classes) or 'no agent class'}")
    if not is_agent(found):
        raise UserError(f"agent={name}: {class_name} is not a subclass of metta.agent.policy_agent.PolicyAgent")
    if found.__module__ == module.__name__ and place.endswith(".py"):
        setattr(found, SOURCE, _digest(Path(place)))
    return found


def is_outdated(agent_class: type[PolicyAgent], name: str | None) -> bool:
    """Whether the class, loaded from the file in `name` by an earlier process, differs from what the file has now."""
    source, path = getattr(agent_class, SOURCE, None), Path((name or "").rpartition(":")[0])
    return source is not None and path.is_file() and source != _digest(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_agent(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, PolicyAgent)


def _module(name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ImportError as error:
        raise UserError(f"agent={name}: cannot import {place}: {error}") from error


def _module_from_file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"agent={name}: no file {path}")
    spec = importlib.util.spec_from_file_location(f"metta_agent_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    return module
