"""What the tools ask of train_dir before torch is imported: which runs, which checkpoints, which environment."""

import fnmatch
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from metta.envs.env_spec import EnvName
from metta.envs.make_env import check_env
from metta.envs.sources import members
from metta.errors import UserError, enumeration, hide_password, one_line, say_once
from metta.eval.eval_db import EvalDB, open_scores
from metta.rl.tiny_checkpoint_manager import AGENT_FILE, TinyCheckpointManager
from metta.run_folder import RunFolder, TrainDir, expanded
from metta.tools.cli.config import AnalyzeConfig, PlayConfig, ReplayConfig, RunsConfig, ScoresConfig, SimConfig
from metta.tools.cli.epochs import epoch_text

AgentAsked: TypeAlias = SimConfig | PlayConfig  # whose keys choose agents
RunAsked: TypeAlias = AgentAsked | ReplayConfig  # whose keys choose a run and an environment
ScoresAsked: TypeAlias = AnalyzeConfig | RunsConfig | ScoresConfig

PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Target:
    """Which agents to play: `epochs` of a run, or the file of agent= (with its run and epoch if known)."""

    run: str | None
    epochs: list[int]
    file: Path | None = None


def open_run(run: str, train_dir: str) -> TinyCheckpointManager:
    """Open the run's checkpoints, which need not exist yet. UserError for a bad name, or a file in the way."""
    for folder in (TrainDir(train_dir).path, RunFolder(train_dir, run).path):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
    return TinyCheckpointManager(run, train_dir)


def existing_run(run: str, train_dir: str) -> TinyCheckpointManager:
    """Open the checkpoints of a run. UserError if it has none."""
    manager = open_run(run, train_dir)
    if not manager.exists():
        have = f"have {enumeration(runs)}" if (runs := list_runs(train_dir)) else "there is none yet"
        raise UserError(f"no run {run} with a checkpoint in {train_dir}: {have}")
    return manager


def list_runs(train_dir: str) -> list[str]:
    """List the runs in train_dir that have a checkpoint, by name."""
    return look_at_runs(train_dir)[0]


def look_at_runs(train_dir: str) -> tuple[list[str], list[str]]:
    """List the runs that have a checkpoint, by name, and those that may not be read, with a line on stderr each."""
    found, unread = list[str](), list[str]()
    for run in TrainDir(train_dir).runs():
        try:
            found += [run.name] if TinyCheckpointManager(run.name, train_dir).exists() else []
        except OSError as error:
            say_once(f"metta: run={run.name} is left out: {one_line(error)}")
            unread.append(run.name)
    return found, unread


def matching_runs(name: str, train_dir: str, known: Sequence[str]) -> tuple[str, ...]:
    """Find the known run of this name, or those that match the pattern. UserError if there is none."""
    pattern = not PATTERN.isdisjoint(name)
    runs = tuple(fnmatch.filter(known, name)) if pattern else (name,)
    for run in runs:
        open_run(run, train_dir)
    if not runs or not set(runs) <= set(known):
        have = f"have {enumeration(known)}" if known else "there is none yet"
        raise UserError(f"no run {'matches ' if pattern else ''}{name} in {train_dir}: {have}")
    return runs


def find_targets(asked: SimConfig) -> list[Target]:
    """Find all agents that are asked for: each run that run= names or matches, once.

    With watch=true a run that is named need not have a checkpoint yet. UserError or EvalDBError for every mistake that
    shows without torch.
    """
    given_envs(asked)
    if asked.agent is not None:
        return [file_target(asked, Path(asked.agent), asked.watch)]
    if asked.run is None:
        raise UserError("missing run=: a run in train_dir, or an agent file with agent=")
    runs: dict[str, None] = {}  # in the order in which they are asked for
    for name in asked.run.split(","):
        named = PATTERN.isdisjoint(name)
        found = (name,) if named else matching_runs(name, asked.train_dir, list_runs(asked.train_dir))
        runs.update(dict.fromkeys(found))
    return [Target(run, chosen_epochs(asked, run, asked.watch)) for run in runs]


def file_target(asked: AgentAsked, path: Path, watch: bool = False) -> Target:
    """Find the run and epoch of an agent file, which is not trusted any more for lying in train_dir."""
    if not path.is_file():
        raise UserError(f"agent={path}: no such file")
    if not asked.trust and not zipfile.is_zipfile(path):
        raise UserError(f"agent={path}: not an agent file, or not a whole one")
    given = asked.epoch if isinstance(asked.epoch, int) else None
    if watch or (given is None and asked.epoch != "latest"):
        raise UserError(f"agent={path}: one file has no {'watch=' if watch else f'epoch={epoch_text(asked.epoch)}'}")
    name = AGENT_FILE.fullmatch(path.name)
    run = run_of(path, asked.train_dir)
    if name and run is not None:
        for key, value, own in (("run", asked.run, run), ("epoch", given, int(name[1]))):
            if value is not None and value != own:
                raise UserError(f"{key}={value}: agent={path} is {key}={own}")
        return Target(run, [int(name[1])], path)
    if asked.run is None:
        return Target(None, [], path)
    open_run(asked.run, asked.train_dir)
    epoch = int(name[1]) if given is None and name else given
    if epoch is None:
        raise UserError(f"missing epoch=: under which epoch of run={asked.run} to store the scores of agent={path}")
    return Target(asked.run, [epoch], path)


def run_of(path: Path, train_dir: str) -> str | None:
    """Name the run whose checkpoint the file is; None for a file from elsewhere."""
    runs = TrainDir(expanded(train_dir).resolve()).runs()
    return next((run.name for run in runs if run.checkpoints == path.resolve().parent), None)


def chosen_epochs(asked: AgentAsked, run: str, watch: bool = False) -> list[int]:
    """List the run's checkpoints that epoch= selects; to `watch` it from, which need not have one yet."""
    manager = open_run(run, asked.train_dir) if watch else existing_run(run, asked.train_dir)
    if watch and asked.epoch not in ("latest", "all"):
        raise UserError(f"epoch={epoch_text(asked.epoch)}: watch=true takes epoch=latest or epoch=all")
    match asked.epoch:
        case "all":
            return manager.list_epochs()
        case "latest":
            return manager.list_epochs()[-1:]
        case "best":
            return existing_epochs(manager, best_epoch(asked, run))
        case wanted:
            return existing_epochs(manager, wanted)


def existing_epochs(manager: TinyCheckpointManager, wanted: int | range) -> list[int]:
    """List the existing checkpoints of that number or range. UserError if there is none."""
    epochs = manager.list_epochs()
    found = [epoch for epoch in epochs if epoch == wanted or (isinstance(wanted, range) and epoch in wanted)]
    if not found:
        text = epoch_text(wanted)
        raise UserError(f"no checkpoint for epoch={text} in {manager.folder}: have {enumeration(epochs)}")
    return found


def best_epoch(asked: RunAsked, run: str) -> int:
    """Find the run's epoch with the highest score, in the environment of env= if given."""
    env = given_env(asked)
    db = kept_scores(asked)
    best = db.best_epoch(run, None if env is None else env.label, asked.sampled or None)
    if best is None:
        which = f"run {run} has no scores{'' if env is None else f' in {env.label}'} yet"
        raise UserError(f"epoch=best: {which}: `{sim_command(asked, run)} epoch=all` evaluates every checkpoint")
    return best


def given_env(asked: RunAsked) -> EnvName | None:
    """Check env= and its settings; return the canonical name, or None without env=. UserError if unfit."""
    return None if asked.env is None else check_env(EnvName(asked.env, asked.env_settings))


def given_envs(asked: SimConfig) -> list[EnvName]:
    """As `given_env`, of a suite each of its environments; [] without env=."""
    return [] if asked.env is None else [check_env(env) for env in members(EnvName(asked.env, asked.env_settings))]


def chosen_env(asked: RunAsked, own: Callable[[], EnvName]) -> EnvName:
    """Choose the environment of env=, else the agent's own with the given settings."""
    return given_env(asked) or check_env(own().with_(asked.env_settings))


def kept_scores(asked: RunAsked | ScoresAsked) -> EvalDB:
    """Open the scores to read. UserError where eval_db= is a file that is not there; train_dir may have none yet."""
    db = open_scores(asked.train_dir, asked.eval_db)
    if asked.eval_db is not None and db.path is not None and not db.path.exists():
        raise UserError(f"eval_db={asked.eval_db}: no such file")
    return db


def sim_command(asked: RunAsked, run: str) -> str:
    """Write the `metta sim` command for this run and what is asked of it, without epoch=."""
    words = [f"metta sim run={run}"]
    words += [f"env={asked.env}"] if asked.env is not None else []
    words += [f"env.{key}={value}" for key, value in asked.env_settings.items()]
    words += ["sampled=true"] if asked.sampled else []
    return " ".join([*words, *where_keys(asked)])


def where_keys(asked: RunAsked | AnalyzeConfig) -> list[str]:
    """List the keys, as typed, that say where the runs and their scores are; a password is left out."""
    folder = [f"train_dir={asked.train_dir}"] if asked.train_dir != "./train_dir" else []
    return folder + ([] if asked.eval_db is None else [f"eval_db={hide_password(asked.eval_db)}"])
