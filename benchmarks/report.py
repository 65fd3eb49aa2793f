"""How long `metta analyze` takes and how large its report is: 20 runs x 200 epochs x 100 episodes.

    .venv/bin/python benchmarks/report.py [FOLDER]

The runs are made up, and kept in FOLDER where one is given.
"""

import contextlib
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from metta.eval.eval_db import EpisodeRow, EvalDB

RUNS, EPOCHS, EPISODES, STEPS = 20, 200, 100, 16384
CURVES = ("charts/episodic_return", "charts/episodic_length", "charts/steps_per_second", "charts/learning_rate")
LOSSES = ("policy", "value", "entropy", "kl", "clip_fraction", "explained_variance")
ENV = tuple(f"env/metric_{index}" for index in range(20))  # arena reports about as many


def make_runs(train_dir: Path) -> None:
    rng = np.random.default_rng(0)
    names = (*CURVES, *(f"losses/{name}" for name in LOSSES), *ENV)
    db = EvalDB(train_dir / "eval.db")
    db.record("run00", 0, "arena", [EpisodeRow(0, 0.0, 1)], "0")
    with contextlib.closing(sqlite3.connect(db.name)) as rows, rows:  # in one transaction, for speed
        for number in range(RUNS):
            run = f"run{number:02}"
            (train_dir / run / "checkpoints").mkdir(parents=True)
            writer = EventFileWriter(str(train_dir / run))
            for epoch in range(1, EPOCHS + 1):
                (train_dir / run / "checkpoints" / f"agent_epoch_{epoch}.pt").touch()
                skill = (1 + number / 10) * (1 - np.exp(-epoch / 60))
                rewards = (skill + rng.normal(size=EPISODES)).tolist()
                values = [(run, epoch, "arena", "all", seed, rewards[seed], 100, "0", "{}") for seed in range(EPISODES)]
                rows.executemany("INSERT INTO episodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
                for name, value in zip(names, skill + rng.normal(size=len(names)), strict=True):
                    summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
                    writer.add_event(Event(wall_time=1.0, step=epoch * STEPS, summary=summary))
            writer.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        train_dir = Path(sys.argv[1] if len(sys.argv) > 1 else scratch) / "train_dir"
        if not train_dir.exists():
            train_dir.mkdir(parents=True)
            make_runs(train_dir)
        runs = ",".join(f"run{number:02}" for number in range(RUNS))
        for argv in ([f"runs={runs}"], ["runs=run*"]):
            began = time.perf_counter()
            command = [sys.executable, "-m", "metta.tools.main", "analyze", f"train_dir={train_dir}", *argv]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - began
            size = (train_dir / "report.html").stat().st_size
            groups = "as 20 curves" if "," in argv[0] else "as one group"
            print(
                f"{RUNS} runs x {EPOCHS} epochs x {EPISODES} episodes, {groups}: {seconds:.1f} s, {size / 1e6:.2f} MB"
            )


if __name__ == "__main__":
    main()
