"""Loading an agent file that came from elsewhere, without letting its author run code or fill the memory here.

The file is read as inert data. metta then builds its own agent, of the environment and the options that the file
gives, and takes the tensors' numbers from the file if it is, in everything else, what saving that agent gives.

A file under `run=` is loaded by TinyCheckpointManager, which trusts the run's folder.
"""

import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from metta.agent.policy_agent import PolicyAgent
from metta.agent.untrusted.inert_data import InertFile, Record, Refused, StoredTensor, describe
from metta.envs.env_spec import EnvName, EnvSpec, Leaf, TokenSpec
from metta.envs.make_env import has_step_limit
from metta.errors import CheckpointError, UserError, one_line
from metta.files import pt_file

MAX_QUOTED = 200  # characters of an error: it may quote anything from the file
MAX_VALUES = 10_000  # numbers and names in the description of an environment
MAX_NAME = 1_000  # characters
MAX_OBSERVATION = 10**7  # numbers
MAX_LEAVES = 100  # parts of an observation
ENV_NAME = re.compile(r"(?!.*\.py)[\w./-]+")  # neither a file nor a module: those would be executed


def full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


DATA = {full_name(cls): cls for cls in (EnvName, EnvSpec, Leaf, TokenSpec)}  # what describes an environment


def load_agent_file(path: str | Path, trust: bool = False) -> nn.Module:
    """Load the agent in a file that torch.save wrote. CheckpointError, in one line, for everything else.

    Without `trust`, it must be a PolicyAgent as metta makes it: the file cannot run code, and takes little more memory
    than its size. With `trust`, its author's code runs.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file" if path.exists() else f"no file {path}")
    if trust:
        agent = pt_file.load(path)
        if not isinstance(agent, nn.Module):
            raise CheckpointError(f"{path} holds a {type(agent).__name__} where an agent (an nn.Module) should be")
        return agent
    try:
        with open(path, "rb") as file:
            return load_untrusted(file)
    except Refused as refused:
        why = one_line(refused)[:MAX_QUOTED]
        instead = "trust=true takes any PolicyAgent and runs its code: do that only if you trust its author"
        raise CheckpointError(f"refused: {why} in {path} ({instead})") from None
    except Exception as error:  # torch's and zipfile's code over any numbers: it may raise anything
        why = one_line(error)[:MAX_QUOTED]
        raise CheckpointError(f"{path} is no agent file, or damaged ({why})") from error


def load_untrusted(file: IO[bytes]) -> PolicyAgent:
    content = InertFile(file)
    saved = content.unpickled()
    if not isinstance(saved, Record):
        raise Refused(f"{describe(saved)} where an agent should be")
    if saved.cls != full_name(PolicyAgent):
        raise Refused(f"an agent of class {saved.cls}, which is not metta's own,")
    state = saved.state or {}
    env, options = plain_data((state["env"], state["options"]), itertools.repeat(None, MAX_VALUES))
    check_env(env)
    with torch.device("meta"):  # where sizes cost nothing
        agent = PolicyAgent(env, **options)
    stored: dict[int, StoredTensor] = {}
    compare(saved, agent, "agent", stored)
    empty = agent.state_dict(keep_vars=True)
    if sum(tensor.nbytes for tensor in empty.values()) > content.size:
        raise Refused("tensors larger than the file")
    tensors = {name: content.tensor(stored[id(tensor)]) for name, tensor in empty.items()}
    agent.load_state_dict(tensors, assign=True)
    check_numbers(agent, PolicyAgent(env, **{**options, "hidden_size": 1}))
    return agent.train(state["training"])


def plain_data(found: Any, budget: Iterator[None]) -> Any:
    """Copy what describes an environment: numbers and names, and the dataclasses of metta.envs.env_spec."""
    if next(budget, found) is not None:
        raise Refused(f"more than {MAX_VALUES} values")
    match found:
        case None | bool() | int() | float():
            return found
        case str() if len(found) <= MAX_NAME:
            return found
        case tuple() | list():
            return type(found)(plain_data(item, budget) for item in found)
        case dict():
            return {key: plain_data(value, budget) for key, value in found.items()}
        case Record(cls, dict(state)) if cls in DATA:
            return DATA[cls](**plain_data(state, budget))
    raise Refused(f"{describe(found)} in an environment")


def check_env(env: Any) -> None:
    """Refuse names that would import a module, and sizes beyond every environment's."""
    name = env.env.name if type(env) is EnvSpec and type(env.env) is EnvName else None
    if type(name) is not str or not ENV_NAME.fullmatch(name):
        raise Refused(f"an environment called {name}, which would import a module,")
    shape = env.observation_shape
    if not all(type(size) is int and size >= 1 for size in shape) or math.prod(shape) > MAX_OBSERVATION:
        raise Refused(f"observations of shape {shape}")
    leaves, choices = env.leaves, env.action_sizes
    if type(choices) is not tuple or not all(type(size) is int and size >= 1 for size in choices):
        raise Refused(f"actions of sizes {choices}")
    if type(leaves) is not tuple or len(leaves) > MAX_LEAVES or not all(is_leaf(leaf) for leaf in leaves):
        raise Refused("observations in parts unlike any")
    behind = sum(env.choices) * bool(env.masked) + bool(env.agents_vary)
    if leaves and shape != (sum(math.prod(leaf.shape) for leaf in leaves) + behind,):
        raise Refused(f"observations of shape {shape}, which is not that of their parts,")
    if type(env.masked) is not bool or type(env.agents_vary) is not bool or bool(leaves) < env.masked:
        raise Refused("an action mask that is none")
    settings = env.env.settings
    if type(settings) is not dict or not all(type(key) is str for key in settings):
        raise Refused("an environment whose settings are none")
    if env.observation_dtype not in ("float32", "uint8", "bool"):
        raise Refused("an environment unlike any")


def is_leaf(leaf: Any) -> bool:
    """Tell whether it can be a part of an observation that is small enough."""
    if type(leaf) is not Leaf or leaf.kind not in ("vector", "flags", "image") or type(leaf.shape) is not tuple:
        return False
    return all(type(size) is int and size >= 1 for size in leaf.shape) and math.prod(leaf.shape) <= MAX_OBSERVATION


def require_bounded(env: EnvName, path: str | Path) -> None:
    """UserError where an untrusted file would choose settings, or episodes without end: only the user may."""
    if env.settings or not has_step_limit(env.name):
        given = " ".join([f"env={env.name}", *(f"env.{key}={value}" for key, value in env.settings.items())])
        why = "settings of an environment" if env.settings else "an environment without a limit of steps"
        raise UserError(
            f"agent={path} may not choose {why}: to play as it was trained, give {one_line(given)[:MAX_NAME]}"
        )


def compare(found: Any, made: Any, where: str, stored: dict[int, StoredTensor]) -> None:
    """Refuse what saving `made` could not give. Collects where the numbers of each tensor in `made` are stored.

    It walks through `made`, so it costs the same whatever `found` is.
    """
    match made, found:
        case Tensor(), StoredTensor(storage) if storage.dtype == made.dtype and found.size == tuple(made.shape):
            stored.setdefault(id(made), found)
            alike = not any(found.hooks)
        case dict(), dict():
            for key in {**made, **found}:
                if key not in made or key not in found:
                    raise Refused(
                        f"{where}.{key}, which metta's own has {'not' if key in found else 'and it has not'},"
                    )
                if key != "training" or type(found[key]) is not bool:
                    compare(found[key], made[key], f"{where}.{key}".replace("._modules", ""), stored)
            return
        case ((list() | tuple()), (list() | tuple())):
            alike = type(found) is type(made) and len(found) == len(made)
            for index in range(len(made) if alike else 0):
                compare(found[index], made[index], f"{where}.{index}", stored)
        case ((None | str() | bool() | int() | float() | set()), _):
            alike = type(found) is type(made) and found == made
        case _, Record(cls):
            if alike := cls == full_name(type(made)):
                compare(found.state, made.__getstate__(), where, stored)
        case _:
            alike = False
    if not alike:
        raise Refused(f"{where} that is not as metta makes it ({describe(found)})")


def check_numbers(agent: PolicyAgent, small: PolicyAgent) -> None:
    """Refuse weights that are not finite, and tables of whole numbers that do not follow from the environment."""
    expected = small.state_dict()
    for name, tensor in agent.state_dict().items():
        if tensor.is_floating_point():
            if not tensor.isfinite().all():
                raise Refused(f"numbers that are not finite in {name}")
        elif not torch.equal(tensor, expected[name]):
            raise Refused(f"agent.{name} that is not as metta makes it")
