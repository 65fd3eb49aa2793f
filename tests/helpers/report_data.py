"""Runs as training and evaluation leave them, made without either: rows in eval.db, event files, checkpoint files."""

import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from metta.eval.eval_db import EpisodeRow, EvalDB
from metta.files.pt_file import fingerprint
from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager

STEPS = 512  # agent steps of an epoch
AGENT = b"PK\5\6" + bytes(18)  # a zip with nothing in it


def evaluate(
    train_dir: Path, run: str, epoch: int, env: str = "arena", skill: float = 1.0, seeds: Sequence[int] = range(20)
) -> list[float]:
    """Rows of one evaluation: a reward for each seed, the better the higher the skill. Returns the rewards."""
    noise = np.random.default_rng([epoch, *run.encode()])
    rewards = [float(skill * epoch + np.sin(seed) + noise.normal()) for seed in seeds]
    rows = [EpisodeRow(seed, reward, 100) for seed, reward in zip(seeds, rewards, strict=True)]
    EvalDB(train_dir / "eval.db").record(run, epoch, env, rows, fingerprint(io.BytesIO(AGENT)))
    return rewards


def checkpoint(train_dir: Path, run: str, epoch: int, config: Mapping[str, Any] | None = None) -> None:
    """The two files; the trainer's holds no more than the configuration."""
    manager = TinyCheckpointManager(run, train_dir)
    manager.folder.mkdir(parents=True, exist_ok=True)
    manager.file("agent", epoch).write_bytes(AGENT)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        state = {"config": {"run": run, **(config or {})}, "epoch": epoch, "agent_steps": epoch * STEPS}
        archive.writestr("trainer/data.pkl", pickle.dumps(state, protocol=2))
    manager.file("trainer", epoch).write_bytes(content.getvalue())


def log(run_dir: Path, points: Mapping[int, Mapping[str, float]], purge_step: int | None = None) -> Path:
    """A new event file with the scalars of each agent step. Returns its path."""
    before = set(run_dir.glob("events.*"))
    writer = EventFileWriter(str(run_dir), filename_suffix=f".{len(before)}")
    if purge_step is not None:
        writer.add_event(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
    for step, scalars in points.items():
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        writer.add_event(Event(wall_time=1.0, step=step, summary=Summary(value=values)))
    writer.close()
    (made,) = set(run_dir.glob("events.*")) - before
    return made


def make_run(
    train_dir: Path, run: str, skill: float = 1.0, seed: int = 0, epochs: Sequence[int] = (0, 2, 4), env: str = "arena"
) -> None:
    """A run with checkpoints, scores and training curves."""
    for epoch in epochs:
        checkpoint(train_dir, run, epoch, {"seed": seed, "env": env, "learning_rate": 0.001})
        evaluate(train_dir, run, epoch, env, skill)
    returns = {epoch * STEPS: skill * epoch + seed / 8 for epoch in range(1, max(epochs) + 1)}
    log(train_dir / run, {
        step: {"charts/episodic_return": value, "charts/learning_rate": 1 / step, "losses/entropy": -value}
        for step, value in returns.items()
    })  # fmt: skip
