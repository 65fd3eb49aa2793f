"""Damaged files of every kind that a tool reads: one line or an answer, no traceback, no file left behind.

Each test tries at least `LEAST` mutations, and goes on for `BUDGET` seconds; a failure names its seed.
"""

import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from metta.envs.vec_env import Episode
from metta.errors import MettaError
from metta.eval.eval_db import EpisodeRow, EvalDB
from metta.eval.event_files import read_curves
from metta.rl.display.curves import CurveWriter
from metta.rl.saving.saved_config import newest_config
from metta.run_folder import RunFolder
from metta.sim.recording import recording_path, save_recordings
from metta.tools import replay
from metta.tools.cli.arguments import parse
from metta.tools.cli.config import ReplayConfig
from tests.helpers.small_checkpoints import Agent, state_of

LEAST, BUDGET = 300, 10.0


def mutations(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Flipped bits, overwritten, doubled, moved and missing pieces, alone and together."""
    began, seed = time.monotonic(), 0
    while seed < LEAST or time.monotonic() - began < BUDGET:
        rng, data = random.Random(seed), bytearray(content)
        for _ in range(rng.choice((1, 1, 3, 30))):
            at, size = rng.randrange(len(data) + 1), rng.choice((1, 4, 64, 1000))
            kind = rng.randrange(5)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at : at + size] = rng.randbytes(len(data[at : at + size]))
            elif kind == 2:
                data[at:at] = data[at : at + size]
            elif kind == 3:
                del data[at : at + size]
            else:
                data[at : at + size] = bytes([rng.choice((0, 255))]) * len(data[at : at + size])
        if rng.random() < 0.1:
            del data[rng.randrange(len(data) + 1) :]
        yield seed, bytes(data)
        seed += 1


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.slow
def test_any_bytes_as_scores(tmp_path: Path) -> None:
    """Prevents a damaged eval.db from ending a tool with a traceback, or a training that only asks for its best."""
    path = tmp_path / "eval.db"
    for epoch in range(3):
        rows = [EpisodeRow(seed, float(seed), 10, {"hits": 1.0}) for seed in range(20)]
        EvalDB(path).record("a", epoch, "CartPole-v1", rows, "0" * 8)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before, refused = path.read_bytes(), 0
    for seed, content in mutations(before):
        for beside in tmp_path.glob("eval.db-*"):
            beside.unlink()
        path.write_bytes(content)
        for ask in (
            lambda db: db.get_scores("a"),
            lambda db: db.get_metrics("a", 1),
            lambda db: db.best_epoch("a"),
            lambda db: db.latest_score("a"),
            lambda db: db.runs(),
            lambda db: db.record("b", 0, "CartPole-v1", [EpisodeRow(0, 1.0, 1)], "0" * 8),
        ):
            try:
                ask(EvalDB(path))
            except MettaError:
                refused += 1
            except Exception as error:
                raise AssertionError(f"mutation {seed}") from error
        assert files_in(tmp_path) <= {"eval.db", "eval.db-wal", "eval.db-shm"}, seed
    assert refused > 0


@pytest.mark.slow
def test_any_bytes_as_recordings(tmp_path: Path) -> None:
    """Prevents a damaged recording from ending `metta replay` with a traceback or an episode that never was."""
    run = RunFolder(tmp_path, "a")
    path = recording_path(run, 0, "CartPole-v1")
    episodes = [
        Episode(
            0, 0, seed, 30, np.array([30.0]), {}, np.arange(30).reshape(30, 1).astype(np.uint8) % 2, np.ones(1, bool)
        )
        for seed in range(5)
    ]
    save_recordings(path, episodes)
    config, _ = parse(ReplayConfig, ["run=a", f"train_dir={tmp_path}", "seed=3"], "metta replay")
    before, files, refused = path.read_bytes(), files_in(tmp_path), 0
    for seed, content in mutations(before):
        path.write_bytes(content)
        try:
            found = replay.find_recording(config, 0, "CartPole-v1", path)
        except MettaError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutation {seed}") from error
        else:
            assert found.actions.tobytes() == episodes[3].actions.tobytes(), seed
            assert found.returns.tobytes() == episodes[3].returns.tobytes(), seed
        assert files_in(tmp_path) == files, seed
    assert refused > 0


@pytest.mark.slow
def test_any_bytes_as_curves(tmp_path: Path) -> None:
    """Prevents a damaged TensorBoard file from ending a report with a traceback."""
    run = RunFolder(tmp_path, "a")
    writer = CurveWriter(run, 0)
    for step in range(100):
        writer.add({"charts/episodic_return": float(step)}, step)
    ((_, path),) = run.curves
    before = path.read_bytes()
    assert len(read_curves(run)["charts/episodic_return"][0]) == 100
    for seed, content in mutations(before):
        path.write_bytes(content)
        try:
            curves = read_curves(run)
        except Exception as error:
            raise AssertionError(f"mutation {seed}") from error
        assert all(len(steps) == len(values) for steps, values in curves.values()), seed


@pytest.mark.slow
def test_any_bytes_as_a_configuration(tmp_path: Path) -> None:
    """Prevents the reader without torch, which `runs` and `train` ask first, from a traceback over a trainer file."""
    from metta.rl.tiny_checkpoint_manager import TinyCheckpointManager

    manager = TinyCheckpointManager("a", tmp_path)
    manager.save_checkpoint(Agent(0), 0, {**state_of(0), "config": {"env": "CartPole-v1", "env_settings": {}}})
    path = manager.file("trainer", 0)
    before, sound = path.read_bytes(), 0
    for seed, content in mutations(before):
        path.write_bytes(content)
        try:
            sound += newest_config(manager) is not None
        except MettaError:
            pass
        except Exception as error:
            raise AssertionError(f"mutation {seed}") from error
    assert sound > 0
    shutil.rmtree(tmp_path / "a")
