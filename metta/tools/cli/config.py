"""The keys of every tool but `train`, whose keys are the run's own (metta/rl/train_config.py)."""

from dataclasses import dataclass, field
from typing import Any, Literal

from metta.envs.env_spec import MOST_SEED
from metta.keys import Config, at_least, between, key
from metta.rl.train_config import DEVICES, EVAL_DB, TrainConfig, device_name
from metta.tools.cli.epochs import Epoch, Epochs, parse_epoch, parse_epochs

RUN = "name of a run in train_dir"
RUNS = "names and patterns: a,b or ppo-s*"
SAMPLED = "draw actions, as training does, where an agent alone in its environment takes the likeliest"
EPOCH = "the checkpoint: a number, latest or best"
EPOCHS = "checkpoints: a number, a range as in 20..60, latest, best or all"
ENV = "another environment than the one it was trained on"
MIRROR = "the object storage: s3://bucket/prefix"
TRAIN_DIR = "folder of all runs"
FIRST_SEED = "of the first episode; the next has seed + 1, and so on"
AGENT_FILE = "an agent file instead of a run: path/to/agent_epoch_100.pt"
TRUST = "load an agent file from elsewhere with all that is in it: it may run any code"


@dataclass(frozen=True, kw_only=True)
class LaunchConfig(TrainConfig):
    """Train in several ranks of this machine: `metta train` by torchrun, with the keys of both."""

    nproc: int | None = key("ranks, each with its share of the shards", None, at_least(1, 1024), unset="one a core")
    max_restarts: int = key("times that all ranks start again when one has died", 0, at_least(0, 10**6))


@dataclass(frozen=True, kw_only=True)
class SimConfig(Config):
    """Play episodes with a run's checkpoint and store its scores."""

    run: str | None = key(f"runs in train_dir, {RUNS}", None, unset="needed, but for agent=")
    epoch: Epochs = key(EPOCHS, "latest", parse=parse_epochs)
    env: str | None = key(ENV, None, unset="its own")
    env_settings: dict[str, Any] = field(default_factory=dict)
    episodes: int = key("episodes to play", 100, at_least(1, 10**6))
    seed: int = key(FIRST_SEED, 0, between(0, MOST_SEED))
    sampled: bool = key(SAMPLED, False)
    num_envs: int | None = key("copies of the environment, stepped together", None, at_least(1, 2**16))
    device: str = key(DEVICES, "cpu", device_name)
    agent: str | None = key(AGENT_FILE, None, unset="none")
    trust: bool = key(TRUST, False)
    executor: Literal["local", "slurm", "ray"] = key("where the episodes are played", "local")
    random: bool = key("put a random agent's score on the same episodes beside it", False)
    watch: bool = key("go on with each new checkpoint until Ctrl-C", False)
    eval_db: str | None = key(EVAL_DB, None, unset="eval.db in train_dir")
    train_dir: str = key(TRAIN_DIR, "./train_dir")


@dataclass(frozen=True, kw_only=True)
class PlayConfig(Config):
    """Watch an agent act."""

    run: str | None = key(RUN, None, unset="needed, but for agent= or random=")
    epoch: Epoch = key(EPOCH, "latest", parse=parse_epoch)
    env: str | None = key(ENV, None, unset="its own")
    env_settings: dict[str, Any] = field(default_factory=dict)
    seed: int = key(FIRST_SEED, 0, between(0, MOST_SEED))
    sampled: bool = key(SAMPLED, False)
    agent: str | None = key(AGENT_FILE, None, unset="none")
    trust: bool = key(TRUST, False)
    random: bool = key("a random agent instead", False)
    eval_db: str | None = key(EVAL_DB, None, unset="eval.db in train_dir")
    train_dir: str = key(TRAIN_DIR, "./train_dir")


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(Config):
    """Make an episode that `metta sim` played again, as a file people can open."""

    run: str = key(RUN)
    epoch: Epoch = key(EPOCH, "latest", parse=parse_epoch)
    env: str | None = key("the environment, where several were evaluated", None, unset="its own")
    env_settings: dict[str, Any] = field(default_factory=dict)
    seed: int = key("of the episode", 0, between(0, MOST_SEED))
    sampled: bool = key("an episode of `metta sim sampled=true`", False)
    format: Literal["auto", "gif", "mp4", "html", "mettascope"] = key("auto: html for MettaGrid, else gif", "auto")
    out: str | None = key("file or folder to write", None, unset="the run's replays/")
    eval_db: str | None = key(EVAL_DB, None, unset="eval.db in train_dir")
    train_dir: str = key(TRAIN_DIR, "./train_dir")


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig(Config):
    """Compare runs: a table, and a report to open in a browser."""

    runs: str = key(RUNS)
    format: Literal["html", "png", "csv"] = key("html: one report; png: plots (matplotlib); csv: the numbers", "html")
    out: str | None = key("file or folder to write", None, unset="report.html or report_FORMAT/ in train_dir")
    eval_db: str | None = key(EVAL_DB, None, unset="eval.db in train_dir")
    train_dir: str = key(TRAIN_DIR, "./train_dir")


@dataclass(frozen=True, kw_only=True)
class RunsConfig(Config):
    """List the runs in train_dir: epochs, steps, environment, latest score, size."""

    eval_db: str | None = key(EVAL_DB, None, unset="eval.db in train_dir")
    train_dir: str = key(TRAIN_DIR, "./train_dir")


@dataclass(frozen=True, kw_only=True)
class ScoresConfig(Config):
    """Show, export or copy scores."""

    runs: str | None = key(RUNS, None, unset="all")
    export: str | None = key("file for the rows, an episode each: NAME.csv or NAME.parquet", None, unset="none")
    copy_to: str | None = key("another database for the rows: a file or a URL", None, unset="none")
    eval_db: str | None = key(EVAL_DB, None, unset="eval.db in train_dir")
    train_dir: str = key(TRAIN_DIR, "./train_dir")


@dataclass(frozen=True, kw_only=True)
class PullConfig(Config):
    """Bring runs from object storage to look at."""

    mirror: str = key(MIRROR)
    run: str = key(RUNS)
    train_dir: str = key(TRAIN_DIR, "./train_dir")


@dataclass(frozen=True, kw_only=True)
class PushConfig(PullConfig):
    """Send runs to object storage."""
