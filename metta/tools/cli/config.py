"""The keys of every tool but `train`, whose keys are the run's own (metta/rl/train_config.py)."""

from typing import Any, Literal

import chz

from metta.rl.train_config import between, device_name, key

RUN = "name of a run in train_dir"
EPOCH = "the checkpoint: a number, latest or best"
ENV = "another environment than the one it was trained on"
TRAIN_DIR = "folder of all runs"
AGENT_FILE = "an agent file instead of a run: path/to/agent_epoch_100.pt"
TRUST = "load an agent file from elsewhere with all that is in it: it may run any code"


def epoch_name(config: Any, attribute: str) -> None:
    _epoch(config.epoch, ("latest", "best"))


def epoch_name_or_all(config: Any, attribute: str) -> None:
    _epoch(config.epoch, ("latest", "best", "all"))


def _epoch(value: str, words: tuple[str, ...]) -> None:
    if value not in words and not (value.isascii() and value.isdecimal()):
        raise ValueError(f"epoch={value}: must be a number, {', '.join(words[:-1])} or {words[-1]}")


def settings() -> Any:
    return chz.field(default_factory=dict, doc="the env.KEY=VALUE arguments")


@chz.chz
class SimConfig:
    """Play episodes with a run's checkpoint and put its scores into train_dir/eval.db."""

    run: str | None = key(RUN, None, unset="needed, but for agent=")
    epoch: str = key("checkpoints: a number, latest, best or all", "latest", epoch_name_or_all)
    env: str | None = key(ENV, None, unset="its own")
    env_settings: dict[str, Any] = settings()
    episodes: int = key("episodes to play", 100, between(1))
    seed: int = key("of the first episode; the next has seed + 1, and so on", 0, between(0, 2**31 - 1))
    num_envs: int | None = key("copies of the environment, stepped together", None, between(1))
    device: str = key("auto, cpu, cuda, cuda:N or mps", "cpu", device_name)
    agent: str | None = key(AGENT_FILE, None, unset="none")
    trust: bool = key(TRUST, False)
    random: bool = key("put a random agent's score on the same episodes beside it", False)
    watch: bool = key("go on with each new checkpoint until Ctrl-C", False)
    train_dir: str = key(TRAIN_DIR, "./train_dir")


@chz.chz
class PlayConfig:
    """Watch an agent act."""

    run: str | None = key(RUN, None, unset="needed, but for agent= or random=")
    epoch: str = key(EPOCH, "latest", epoch_name)
    env: str | None = key(ENV, None, unset="its own")
    env_settings: dict[str, Any] = settings()
    seed: int = key("of the first episode; the next has seed + 1, and so on", 0, between(0, 2**31 - 1))
    agent: str | None = key(AGENT_FILE, None, unset="none")
    trust: bool = key(TRUST, False)
    random: bool = key("a random agent instead", False)
    train_dir: str = key(TRAIN_DIR, "./train_dir")


@chz.chz
class ReplayConfig:
    """Make an episode that `metta sim` played again, as a file people can open."""

    run: str = key(RUN)
    epoch: str = key(EPOCH, "latest", epoch_name)
    env: str | None = key("the environment, where several were evaluated", None, unset="its own")
    env_settings: dict[str, Any] = settings()
    seed: int = key("of the episode", 0, between(0, 2**31 - 1))
    format: Literal["auto", "gif", "mp4", "html", "mettascope"] = key("auto: html for MettaGrid, else gif", "auto")
    out: str | None = key("file or folder to write", None, unset="the run's replays/")
    train_dir: str = key(TRAIN_DIR, "./train_dir")


@chz.chz
class AnalyzeConfig:
    """Compare runs: a table, and a report to open in a browser."""

    runs: str = key("names and patterns: a,b or ppo-s*")
    format: Literal["html", "png", "csv"] = key("html: one report; png: each plot; csv: the numbers", "html")
    out: str | None = key("file or folder to write", None, unset="report.html or report_FORMAT/ in train_dir")
    train_dir: str = key(TRAIN_DIR, "./train_dir")


@chz.chz
class RunsConfig:
    """List the runs in train_dir: epochs, steps, environment, latest score, size."""

    train_dir: str = key(TRAIN_DIR, "./train_dir")
