"""What tools ask of train_dir before torch is imported: which runs there are, and which checkpoints a run has."""

from pathlib import Path
from typing import Any

from metta.envs.env_spec import EnvName
from metta.envs.make_env import check_env
from metta.errors import UserError, enumeration
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager
from metta.run_folder import RunFolder, TrainDir
from metta.tools.cli.epochs import epoch_text


def open_run(run: str, train_dir: str) -> TinyCheckpointManager:
    """The run's checkpoints, which need not exist yet. UserError where the name or the place cannot be a run's."""
    for folder in (Path(train_dir), RunFolder(train_dir, run).path):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
    return TinyCheckpointManager(run, train_dir)


def existing_run(run: str, train_dir: str) -> TinyCheckpointManager:
    """The checkpoints of a run that has some."""
    manager = open_run(run, train_dir)
    if not manager.exists():
        have = f"have {enumeration(runs)}" if (runs := list_runs(train_dir)) else "there is none yet"
        raise UserError(f"no run {run} with a checkpoint in {train_dir}: {have}")
    return manager


def list_runs(train_dir: str) -> list[str]:
    """Names of the runs in train_dir that have a checkpoint, sorted."""
    names = [run.name for run in TrainDir(train_dir).runs()]
    return [name for name in names if TinyCheckpointManager(name, train_dir).exists()]


def existing_epochs(manager: TinyCheckpointManager, wanted: int | range) -> list[int]:
    """The checkpoint of that number, or those in that range: at least one."""
    epochs = manager.list_epochs()
    found = [epoch for epoch in epochs if epoch == wanted or (isinstance(wanted, range) and epoch in wanted)]
    if not found:
        text = epoch_text(wanted)
        raise UserError(f"no checkpoint for epoch={text} in {manager.folder}: have {enumeration(epochs)}")
    return found


def given_env(env: str | None, settings: dict[str, Any]) -> EnvName | None:
    """The environment that env= and its settings name, in canonical form; None without env=. ValueError if unfit."""
    return None if env is None else check_env(EnvName(env, settings))
