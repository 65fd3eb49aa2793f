"""`metta runs`: what is in train_dir, from file names, eval.db and the newest trainer files. Never imports torch."""

import fcntl
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.filesize import decimal

from metta.envs.env_spec import EnvName
from metta.errors import UserError, one_line, say
from metta.eval.eval_db import EvalDB
from metta.rl.saving.saved_config import newest_config
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.run_folder import RunFolder, expanded
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import RunsConfig
from metta.tools.cli.table import print_table, score_text
from metta.tools.cli.targets import kept_scores, list_runs

HEADINGS = ("run", "env", "state", "epoch", "steps", "latest score", "at", "size", "from")
FLOCK = struct.Struct("hhlli0l")  # C's struct flock: type, whence, start, length, process


def main(argv: Sequence[str]) -> int:
    config, given = parse(RunsConfig, argv, "metta runs")
    train_dir = expanded(config.train_dir)
    if "train_dir" in given and not train_dir.is_dir():
        raise UserError(f"train_dir={train_dir} is not a folder")
    scores = kept_scores(config)
    rows = []
    for run in list_runs(config.train_dir):
        try:
            rows.append(describe(run, config.train_dir, scores))
        except OSError as error:
            say(f"metta runs: run={run} is left out: {one_line(error)}")
    if rows:
        columns = len(HEADINGS) if any(row[-1] for row in rows) else len(HEADINGS) - 1  # "from" where a run has some
        print_table(HEADINGS[:columns], [row[:columns] for row in rows], left=3)
    else:
        print(f"no runs in {config.train_dir} yet: `metta train run=NAME env=arena` starts one")
    return 0


def describe(run: str, train_dir: str, scores: EvalDB) -> tuple[str, ...]:
    """Make a run's row; what cannot be read is '-', with a line on stderr."""
    manager = TinyCheckpointManager(run, train_dir)
    folder = RunFolder(train_dir, run)
    epochs = manager.list_epochs()
    needed = ("env", "env_settings", "total_timesteps")
    saved = newest_config(manager, *needed, unread=lambda error: say(f"metta runs: {one_line(error)}"))
    env = steps = state = "-"
    newest = str(epochs[-1]) if epochs else "-"  # deleted meanwhile
    ancestry = ""
    if saved is not None:
        env = EnvName(saved["config"]["env"], saved["config"]["env_settings"]).label
        newest, steps = str(saved["epoch"]), f"{saved['agent_steps']:,}"
        ancestry = str(saved["config"].get("ancestry", ""))
        state = "complete" if saved["agent_steps"] >= saved["config"]["total_timesteps"] else "stopped"
    if is_locked(folder.lock):
        state = "training"
    return run, env, state, newest, steps, *latest_score(scores, run, env), decimal(size_of(folder.path)), ancestry


def latest_score(scores: EvalDB, run: str, env: str) -> tuple[str, str]:
    """Format score and epoch of the last evaluation: in the run's own environment, else in the first by name."""
    latest = scores.latest_score(run)
    if latest is None:
        return "-", "-"
    epoch, by_env = latest
    name = env if env in by_env else min(by_env)
    where = "" if name == env else f" in {name}"
    return score_text(by_env[name]) + where, str(epoch)


def is_locked(path: Path) -> bool:
    """Ask whether a trainer holds the lock file (F_GETLK), without taking the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(descriptor)
    return bool(FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def size_of(folder: Path) -> int:
    """Add up the bytes of all files in the folder; one deleted meanwhile (retention) counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
