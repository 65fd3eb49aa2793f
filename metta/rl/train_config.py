"""What a run is trained with: every key of `metta train`. It imports no torch, so a bad value is answered at once."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from metta.envs.env_spec import EnvName, without_folders
from metta.envs.make_env import check_env
from metta.envs.mettagrid.games import GAMES
from metta.envs.settings import wrapper_places
from metta.errors import UserError
from metta.keys import Config, above, at_least, between, key, keys, kinds, shown
from metta.user_code import found_place, place_of, resolved_place

# Keys whose value may differ when a run goes on; every other one stays what it was when the run began.
CHANGEABLE = frozenset(
    {
        "total_timesteps",
        "checkpoint_interval",
        "keep_last",
        "num_workers",
        "device",
        "display",
        "on_epoch",
        "trust",
        "evaluate",
    }
)
AGENT_OPTIONS = ("hidden_size", "lstm")  # which PolicyAgent takes, or its build_encoder
# What gives shape to the state, which a fork takes over.
SHAPES = frozenset({"agent", *AGENT_OPTIONS, "num_envs", "num_shards", "optimizer"})
ANCESTOR = frozenset({"init", "fork"})  # what a run begins with
PLACES = frozenset({"eval_db", "mirror"})  # of copies and scores: no checkpoint keeps them, or a password in them
FOLDER = frozenset({"run", "train_dir"}) | PLACES  # where things lie: not a matter of the run, which can be moved
EVAL_DB = "where the scores are: a file, or postgresql://user@host/database"
DEVICES = "auto, cpu, cuda, cuda:N or mps"
CODE = frozenset({"agent", "loss", "optimizer", "on_epoch"})  # keys that name code of the user's own
MOVABLE = CODE | {"env", "env.wrappers"}  # whose files are found where they are now
OF_PYTHON = ("agent", "loss", "optimizer")  # of them those that Python may give as they are
LARGE = 1e30  # a factor or a bound that is as good as infinite, and still a float32


def device_name(value: str) -> str | None:
    """Check that it is one of DEVICES: whether it is there is seen when torch is."""
    known = re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,2})?", value)  # torch counts 128 GPUs, then from -128 on
    return None if known else DEVICES


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Start a run, or go on with it where it stopped.

    This is what was typed: keys marked "by environment" in --help are None where they were not.
    """

    run: str = key("name of the run: letters, digits, '.', '_' and '-'")
    env: str | Callable[..., Any] | None = key(
        f"{', '.join(GAMES)}, a Gymnasium id, or your own: path/to/file.py:Name or package.module:Name",
        None,
        unset="needed for a new run",
        parse=str,
    )
    env_settings: dict[str, Any] = field(default_factory=dict)
    agent: str | Callable[..., Any] | None = key(
        "your own: path/to/file.py:MyAgent or package.module:MyAgent", None, unset="PolicyAgent", parse=str
    )
    init: str | None = key("begin with the agent of RUN, RUN:EPOCH or an agent file", None, unset="a new agent")
    fork: str | None = key("go on from the checkpoint RUN:EPOCH of another run", None, unset="begin anew")
    trust: bool = key("load the agent file of init= with all that is in it: it may run any code", False)
    ancestry: str = ""  # "fork=b:8 init=a:4": what it began with, and what that did
    seed: int = key("of everything random", 0, between(0, 2**32 - 1))
    device: str = key(DEVICES, "auto", device_name)

    total_timesteps: int | None = key("agent steps in all (one agent acting once is one)", None, at_least(1))
    num_envs: int | None = key("copies of the environment, stepped together", None, at_least(1, 2**16))
    num_shards: int | None = key("equal parts of them and of each minibatch, computed apart", None, at_least(1, 2**16))
    num_workers: int | None = key(
        "processes that help this one", None, at_least(0, 1000), unset="one for each further shard and core"
    )
    horizon: int | None = key("steps of each environment in an epoch", None, at_least(1, 10**9))
    minibatch_size: int | None = key("agent steps in a minibatch", None, at_least(1))
    update_epochs: int | None = key("passes over the data of an epoch", None, at_least(1, 10**6))

    learning_rate: float | None = key("of Adam", None, above(0, 1000))
    anneal_lr: bool = key("let it fall linearly to 0 at total_timesteps", True)
    gamma: float | None = key("discount of a step", None, between(0, 1))
    gae_lambda: float | None = key("lambda of the advantages (GAE)", None, between(0, 1))
    clip_coef: float = key("clip range of the policy's ratio", 0.2, above(0, LARGE))
    vf_coef: float | None = key("weight of the value loss", None, at_least(0, LARGE))
    vf_clip: float | None = key("clip range of the value's change", None, above(0, LARGE), unset="no clipping")
    ent_coef: float | None = key("weight of the entropy bonus", None, at_least(0, LARGE))
    max_grad_norm: float = key("longest gradient", 0.5, above(0, LARGE))
    target_kl: float | None = key("end an epoch's update past this KL divergence", None, above(0, LARGE), unset="never")

    loss: str | Callable[..., Any] | None = key(
        "your own: path/to/file.py:f or package.module:f", None, unset="PPO's", parse=str
    )
    optimizer: str | Callable[..., Any] | None = key(
        "your own, made by f(parameters, lr): path/to/file.py:f or package.module:f", None, unset="Adam", parse=str
    )

    hidden_size: int | None = key("width of the agent's layers", None, at_least(1, 2**14))
    lstm: bool = key("give the agent a memory", False)

    checkpoint_interval: int = key("epochs from one checkpoint to the next", 20, at_least(1))
    keep_last: int | None = key("newest checkpoints to keep, beside the best", None, at_least(1), unset="all")
    evaluate: int | None = key(
        "episodes to evaluate each checkpoint over, in a process beside",
        None,
        at_least(1, 10**6),
        unset="no evaluation",
    )
    on_epoch: str | None = key("called after each epoch: path/to/file.py:f or package.module:f", None, unset="nothing")
    display: Literal["auto", "rich", "plain", "none"] = key("progress on stderr; auto: rich on a terminal", "auto")
    mirror: str | None = key("object storage to keep a copy in: s3://bucket/prefix", None, unset="none")
    eval_db: str | None = key(EVAL_DB, None, unset="eval.db in train_dir")
    train_dir: str = key("folder of all runs", "./train_dir")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in OF_PYTHON:
            object.__setattr__(self, name, as_place(name, getattr(self, name)))
        if self.env is not None:
            env = EnvName.of(self.env, self.env_settings)
            object.__setattr__(self, "env", env.name)
            object.__setattr__(self, "env_settings", env.settings)

    @property
    def env_name(self) -> EnvName:
        """The environment with its settings; UserError where it is not known yet, as of a run that goes on."""
        if self.env is None:
            raise UserError(f"env= is needed for a new run: {self.run} has no checkpoint")
        return EnvName.of(self.env, self.env_settings)


class RunConfig(TrainConfig):
    """What a run is trained with: every value decided (metta/rl/defaults.py). The trainer file has it as a plain dict.

    What may still be None means something: no clipping, all checkpoints, the encoder's own hidden_size.
    """

    env: str
    total_timesteps: int
    num_envs: int
    num_shards: int
    horizon: int
    minibatch_size: int
    update_epochs: int
    agent: str | None
    loss: str | None
    optimizer: str | None
    learning_rate: float
    gamma: float
    gae_lambda: float
    vf_coef: float
    ent_coef: float


def as_place(name: str, code: Any) -> str | None:
    """The place of a class or function that Python gave. UserError for what is neither."""
    if code is None or isinstance(code, str):
        return code
    if not callable(code) or not hasattr(code, "__qualname__"):
        raise UserError(
            f"{name}={shown(code)}: not a {'class' if name == 'agent' else 'function'}, nor the place of one"
        )
    return place_of(code)


def given_keys(config: TrainConfig) -> frozenset[str]:
    """The keys whose values are not the defaults, as they would be typed: "seed", "env.max_steps"."""
    names = {name for name, declared in keys(TrainConfig).items() if getattr(config, name) != declared.default}
    return frozenset(names | {f"env.{name}" for name in config.env_settings})


def typed_places(config: TrainConfig, given: frozenset[str]) -> list[Any]:
    """Where the code is that was given now, and goes before what a run has of the same name."""
    return [getattr(config, name) for name in given & (CODE | {"env"})]


Changed = dict[str, tuple[Any, Any]]  # key -> what a run has, and what is given now


def going_on(
    saved: dict[str, Any], epoch: int, config: TrainConfig, given: frozenset[str]
) -> tuple[TrainConfig, Changed | None]:
    """The configuration a run goes on with: its own, `saved`, with the given CHANGEABLE keys; and None.

    A run that has learned nothing (epoch 0) and is told what to be begins anew: with the keys that changed. With env=
    given its configuration is what a new run would have; without, its own with whatever is given in its place.
    UserError for any other key that is given (`given`: as typed, "env.max_steps" among them) with another value. A key
    that is younger than the run has its default.
    """
    changed = changed_keys(saved, config, given)
    if epoch == 0 and not saved.get("fork") and ("env" in given or changed):
        return config if "env" in given else _replaced(saved, config, given), changed
    for name, (own, new) in changed.items():
        started = "without it" if own is None else f"with {name}={own}"
        raise UserError(f"{name}={new}: run {config.run} was started {started}, and keeps that to its end")
    return _replaced(saved, config, given & (CHANGEABLE | MOVABLE)), None


def fork_config(saved: dict[str, Any], config: TrainConfig, given: frozenset[str]) -> TrainConfig:
    """The configuration of a run that forks from one of the configuration `saved`: that, with the given keys.

    UserError for a key that would change the shape of the state.
    """
    for name, (own, new) in changed_keys(saved, config, given & SHAPES).items():
        raise UserError(f"{name}={new}: a fork keeps what gives shape to its state, and {config.fork} has {name}={own}")
    if "env" in given and check_env(config.env_name).name != saved["env"]:
        saved = {**saved, "env_settings": {}}  # which are those of the other environment
    return replace(_replaced(saved, config, given), fork=config.fork, init=None)


def changed_keys(saved: dict[str, Any], config: TrainConfig, given: frozenset[str]) -> Changed:
    """The given keys that a run keeps to its end and that have another value in `saved`: its own, and the new one."""
    changed: Changed = {}
    for name in sorted(given - CHANGEABLE - FOLDER):
        _, _, setting = name.partition(".")
        if setting:
            name_of_env = config.env if "env" in given and "env" not in changed else saved["env"]
            env = EnvName.of(name_of_env, saved.get("env_settings", {}))
            own, new = env.settings.get(setting), config.env_settings[setting]
            if "env" not in changed and check_env(env.with_({setting: new})) == check_env(env):
                continue  # the same in other words, or the default
        else:
            own, new = saved.get(name, keys(TrainConfig)[name].default), getattr(config, name)
        same = own == new or is_same(name, own, new)
        if name in ANCESTOR and own and new:
            same = new in (own, own.rpartition(":")[0]) or str(Path(new).resolve()) == own
        if not same:
            changed[name] = own, new
    return changed


def is_same(name: str, own: Any, new: Any) -> bool:
    """Tell whether two values of a key name one thing in the user's code, or in a file that has moved."""
    if own is None or new is None or name not in MOVABLE:
        return False
    if name == "env.wrappers":
        olds, news = own.split(","), wrapper_places(new).split(",")
        return len(olds) == len(news) and all(is_same("env", *pair) for pair in zip(olds, news, strict=True))
    if resolved_place(own) == resolved_place(new) or (name == "env" and found_place(own) == found_place(new)):
        return True
    file = own.partition(".py:")[0] + ".py"
    return without_folders(own) == without_folders(new) and not Path(file).exists()


def gone_keys(saved: dict[str, Any]) -> dict[str, Any]:
    """What a run was started with and no run can be started with now."""
    return {name: value for name, value in saved.items() if name not in kinds(TrainConfig)}


def _replaced(saved: dict[str, Any], config: TrainConfig, names: frozenset[str]) -> TrainConfig:
    own = {name: value for name, value in saved.items() if name in kinds(TrainConfig)}
    new = {name: getattr(config, name) for name in (names | FOLDER) & kinds(TrainConfig).keys()}
    settings = {name: value for name, value in config.env_settings.items() if f"env.{name}" in names}
    return TrainConfig(**{**own, **new, "env_settings": {**own.get("env_settings", {}), **settings}})
