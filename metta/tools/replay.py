"""`metta replay`: finds a recorded episode without torch, makes it again, and writes it as a file people can open."""

import os
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from metta.envs.env_spec import EnvName
from metta.envs.make_env import is_mettagrid
from metta.errors import UserError, enumeration, say
from metta.eval.eval_db import scored_env
from metta.rl.saving.saved_config import newest_config, own_env
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.run_folder import RunFolder
from metta.sim.recording import Recording, Source, load_recording, recorded_epoch, recorded_seeds, recording_path
from metta.sim.replay.films import SUFFIXES, check_format, replay_path, write_replay
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import ReplayConfig
from metta.tools.cli.targets import best_epoch, chosen_env, existing_epochs, existing_run, sim_command


def main(argv: Sequence[str]) -> int:
    config, _ = parse(ReplayConfig, argv, "metta replay")
    manager = existing_run(config.run, config.train_dir)
    epoch = chosen_epoch(config, manager)
    home = Path.cwd()
    env = chosen_env(config, lambda: env_of(manager))
    format = chosen_format(config, env)
    check_format(format, env)
    label = scored_env(env.label, config.sampled)
    recordings = recording_path(RunFolder(config.train_dir, config.run), epoch, label)
    with chdir(home):  # the user's environment may have changed it
        source = Source(config.run, epoch, env, find_recording(config, epoch, label, recordings))
        path = chosen_path(config, recordings, format)
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures are drawn into memory: no screen is needed
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    differing = write_replay(source, format, home / path)
    print(path)
    if differing is not None:
        say(f"metta replay: this is not the episode that was recorded: {differing}")
        return 1
    return 0


def chosen_epoch(config: ReplayConfig, manager: TinyCheckpointManager) -> int:
    """Choose the epoch that epoch= means; recorded episodes outlive their checkpoint, so that may be gone."""
    if config.epoch == "latest":
        return manager.list_epochs()[-1]
    if config.epoch == "best":
        return best_epoch(config, config.run)
    if config.epoch not in recorded_epochs(config):
        existing_epochs(manager, config.epoch)
    return config.epoch


def recorded_epochs(config: ReplayConfig) -> list[int]:
    files = RunFolder(config.train_dir, config.run).replays.glob("*.npz")
    return sorted({epoch for file in files if (epoch := recorded_epoch(file.name)) is not None})


def env_of(manager: TinyCheckpointManager) -> EnvName:
    """Read the run's environment from the newest readable trainer file, else from the newest agent."""
    saved = newest_config(manager, "env", "env_settings")
    if saved is not None:
        return own_env(saved)
    agent: Any = manager.load_latest_agent()
    if not hasattr(agent, "env"):
        raise UserError(f"a {type(agent).__name__} does not say which environment it was trained on: give env=")
    return agent.env.env


def find_recording(config: ReplayConfig, epoch: int, label: str, recordings: Path) -> Recording:
    """Load the recorded episode. UserError if there is none, with the command that records it."""
    command = f"{sim_command(config, config.run)} epoch={epoch}"
    try:
        seeds = recorded_seeds(recordings)
        if config.seed in seeds:
            return load_recording(recordings, config.seed)
    except Exception:  # noqa: BLE001 (numpy and zipfile raise nearly anything over damaged bytes)
        raise UserError(f"{recordings} is damaged or holds no episodes: `{command}` records new ones") from None
    if not seeds:
        have = recorded_epochs(config)
        others = f" (of epoch {enumeration(have)} there are)" if have and epoch not in have else ""
        raise UserError(f"no episode of epoch={epoch} in {label} is recorded{others}: `{command}` records some")
    more = f"episodes={config.seed + 1}" if config.seed < 1000 else f"seed={config.seed}"
    which = f"seed={config.seed} of epoch={epoch} in {label} is not recorded"
    raise UserError(f"{which}, seeds {seeds[0]} to {seeds[-1]} are: `{command} {more}` records it")


def chosen_format(config: ReplayConfig, env: EnvName) -> str:
    """Choose the format by format=, else by the suffix of out=, else by the environment."""
    if config.format != "auto":
        return config.format
    for format, suffix in SUFFIXES.items():
        if config.out is not None and config.out.endswith(suffix):
            return format
    return "html" if is_mettagrid(env) else "gif"


def chosen_path(config: ReplayConfig, recordings: Path, format: str) -> Path:
    own = replay_path(recordings, config.seed, format)
    if config.out is None:
        return own
    path = Path(config.out)
    if path.is_dir():
        return path / own.name
    if not path.name.endswith(SUFFIXES[format]):
        raise UserError(f"out={path}: a file of format={format} is named *{SUFFIXES[format]}")
    if not path.parent.is_dir():
        raise UserError(f"out={path}: no folder {path.parent}")
    return path
