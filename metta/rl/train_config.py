"""What a run is trained with: every key of `metta train`. It imports no torch, so a bad value is answered at once."""

import math
from collections.abc import Callable
from typing import Any, Literal

import chz

# Keys whose value may differ when a run goes on; every other one stays what it was when the run began.
CHANGEABLE = frozenset({"total_timesteps", "checkpoint_interval", "keep_last", "num_workers", "device", "display"})

REQUIRED = object()  # the default of a key that has none

Check = Callable[[Any, str], None]


def key(doc: str, default: Any = REQUIRED, check: Check | None = None, unset: str = "by environment") -> Any:
    """A field that the command line can set; `unset` says in --help what a default of None means.

    meta_factory=None: chz would otherwise read `seed=os:getpid` as a function to import and call.
    """
    given = {} if default is REQUIRED else {"default": default}
    help_ = {"doc": doc, "unset": unset, **given}
    return chz.field(doc=doc, validator=check, meta_factory=None, metadata=help_, **given)


def between(low: float, high: float = math.inf) -> Check:
    """A number from low to high, both allowed; infinity and NaN are not."""
    return _number(lambda value: low <= value <= high, f"at least {low}" if high == math.inf else f"{low} to {high}")


def above(low: float) -> Check:
    """A finite number greater than low."""
    return _number(lambda value: value > low, f"greater than {low}")


def _number(accept: Callable[[float], bool], wanted: str) -> Check:
    def check(config: Any, attribute: str) -> None:
        value = getattr(config, attribute)
        if value is not None and not (math.isfinite(value) and accept(value)):
            raise ValueError(f"{attribute.removeprefix('X_')}={value}: must be {wanted}")

    return check


def device_name(config: Any, attribute: str) -> None:
    """auto, cpu, cuda, cuda:N or mps: whether it is there is seen when torch is."""
    kind, colon, number = (value := getattr(config, attribute)).partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise ValueError(f"device={value}: must be auto, cpu, cuda, cuda:N or mps")


@chz.chz
class TrainConfig:
    """Start a run, or go on with it where it stopped.

    Keys marked "by environment" in --help are None until metta/rl/defaults.py fills them in, and env until it is known
    to be given. Copies are made with chz.replace, a plain dict with chz.asdict.
    """

    run: str = key("name of the run: letters, digits, '.', '_' and '-'")
    env: str = key("arena, navigation or a Gymnasium id", None, unset="needed for a new run")
    env_settings: dict[str, Any] = chz.field(default_factory=dict, doc="the env.KEY=VALUE arguments")
    agent: str | None = key("your own: path/to/file.py:MyAgent or package.module:MyAgent", None, unset="PolicyAgent")
    seed: int = key("of everything random", 0, between(0, 2**32 - 1))
    device: str = key("auto, cpu, cuda, cuda:N or mps", "auto", device_name)

    total_timesteps: int = key("agent steps in all (one agent acting once is one)", None, between(1))
    num_envs: int = key("copies of the environment, stepped together", None, between(1))
    num_shards: int = key("equal parts of them and of each minibatch, computed apart", None, between(1))
    num_workers: int | None = key(
        "processes that help this one", None, between(0), unset="one for each further shard and core"
    )
    horizon: int = key("steps of each environment in an epoch", None, between(1))
    minibatch_size: int = key("agent steps in a minibatch", None, between(1))
    update_epochs: int = key("passes over the data of an epoch", None, between(1))

    learning_rate: float = key("of Adam", None, above(0))
    anneal_lr: bool = key("let it fall linearly to 0 at total_timesteps", True)
    gamma: float = key("discount of a step", None, between(0, 1))
    gae_lambda: float = key("lambda of the advantages (GAE)", None, between(0, 1))
    clip_coef: float = key("clip range of the policy's ratio", 0.2, above(0))
    vf_coef: float = key("weight of the value loss", None, between(0))
    vf_clip: float | None = key("clip range of the value's change", None, above(0), unset="no clipping")
    ent_coef: float = key("weight of the entropy bonus", None, between(0))
    max_grad_norm: float = key("longest gradient", 0.5, above(0))
    target_kl: float | None = key("end an epoch's update past this KL divergence", None, above(0), unset="never")

    hidden_size: int = key("width of the agent's layers", None, between(1))
    lstm: bool = key("give the agent a memory", False)

    checkpoint_interval: int = key("epochs from one checkpoint to the next", 20, between(1))
    keep_last: int | None = key("newest checkpoints to keep, beside the best", None, between(1), unset="all")
    display: Literal["auto", "rich", "plain", "none"] = key("progress on stderr; auto: rich on a terminal", "auto")
    train_dir: str = key("folder of all runs", "./train_dir")


def resume_config(saved: dict[str, Any], config: TrainConfig, given: frozenset[str]) -> TrainConfig:
    """The configuration a run goes on with: its own, `saved`, with the given CHANGEABLE keys.

    ValueError for any other key that is given (`given`: as typed, "env.max_steps" among them) with another value.
    """
    for name in sorted(given - CHANGEABLE - {"run", "train_dir"}):
        _, _, setting = name.partition(".")
        new = config.env_settings[setting] if setting else getattr(config, name)
        own = saved["env_settings"].get(setting) if setting else saved[name]
        if own != new:
            had = "without it" if setting and own is None else f"with {name}={own}"
            raise ValueError(f"{name}={new}: run {config.run} was started {had}, and keeps that to its end")
    changed = {name: getattr(config, name) for name in given & CHANGEABLE}
    return TrainConfig(**{**saved, **changed, "run": config.run, "train_dir": config.train_dir})
