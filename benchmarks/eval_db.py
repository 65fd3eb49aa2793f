"""Time eval.db's answers on a database of 5 million rows: `python benchmarks/eval_db.py [rows]`.

Builds the database in a temporary folder (about 600 MB). Prints the median and range of many calls, and beside the time
on the clock the processor's, which busy neighbours on the machine disturb less.
"""

import contextlib
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from metta.eval.eval_db import EpisodeRow, EvalDB

EPOCHS, EPISODES = 1000, 100
FILL = """
WITH RECURSIVE
  run(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM run WHERE i + 1 < :runs),
  epoch(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM epoch WHERE i + 1 < :epochs),
  seed(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM seed WHERE i + 1 < :episodes)
INSERT OR REPLACE INTO episodes
SELECT printf('run%03d', run.i), epoch.i, 'arena', 'all', seed.i, abs(random()) % 1000000 / 1e4, 1000, '0badcafe',
       '{"hearts.gained":3.0,"ore.gained":12.0,"battery.gained":7.0}'
FROM run CROSS JOIN epoch CROSS JOIN seed
"""


def main(rows: int) -> None:
    runs = max(1, rows // (EPOCHS * EPISODES))
    with tempfile.TemporaryDirectory() as folder:
        db = EvalDB(Path(folder) / "eval.db")
        db.record("run000", 0, "arena", [EpisodeRow(0, 0.0, 1)], "0badcafe")
        began = time.perf_counter()
        with contextlib.closing(sqlite3.connect(db.name)) as connection:
            connection.execute(FILL, {"runs": runs, "epochs": EPOCHS, "episodes": EPISODES})
            connection.commit()
            (count,) = connection.execute("SELECT count(*) FROM episodes").fetchone()
        size = Path(db.name).stat().st_size >> 20
        print(f"{count:,} rows ({runs} runs x {EPOCHS} epochs x {EPISODES} episodes), {size:,} MB, ", end="")
        print(f"made in {time.perf_counter() - began:.0f} s, SQLite {sqlite3.sqlite_version}")
        report("get_scores(run, epoch)", 10, 200, lambda i: db.get_scores(f"run{i % runs:03d}", i * 37 % EPOCHS))
        report("get_scores(run): 1,000 epochs x 100", 500, 15, lambda i: db.get_scores(f"run{i % runs:03d}"))
        report("get_metrics(run, epoch)", None, 50, lambda i: db.get_metrics(f"run{i % runs:03d}", i * 37 % EPOCHS))
        report("best_epoch(run)", None, 15, lambda i: db.best_epoch(f"run{i % runs:03d}"))
        report("latest_score(run)", None, 50, lambda i: db.latest_score(f"run{i % runs:03d}"))
        report("runs()", None, 50, lambda _: db.runs())
        report("record of 100 episodes", None, 50, lambda i: db.record("new", i, "arena", new_rows(), "0badcafe"))


def new_rows() -> list[EpisodeRow]:
    return [EpisodeRow(seed, float(seed), 1000, {"hearts.gained": 3.0}) for seed in range(EPISODES)]


def report(what: str, target_ms: float | None, calls: int, call: Callable[[int], object]) -> None:
    """One line: first call, then median and range of the others, and their median processor time."""
    clock_ms, processor_ms = [], []
    for index in range(calls):
        clock, processor = time.perf_counter(), time.process_time()
        call(index)
        clock_ms.append((time.perf_counter() - clock) * 1000)
        processor_ms.append((time.process_time() - processor) * 1000)
    first, rest = clock_ms[0], clock_ms[1:]
    median = statistics.median(rest)
    line = f"{what:36} median {median:7.2f} ms ({min(rest):.2f} to {max(rest):.2f}), first {first:.2f}"
    line += f", processor {statistics.median(processor_ms[1:]):.2f}"
    print(line if target_ms is None else f"{line}; target {target_ms:g}: {'met' if median < target_ms else 'missed'}")


if __name__ == "__main__":
    main(int(sys.argv[1].replace("_", "")) if len(sys.argv) > 1 else 5_000_000)
