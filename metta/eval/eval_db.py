"""Scores of every run in one SQLite file: a row per episode and agent group, key (run, epoch, env, agent_group, seed).

Each call opens the file, does one transaction and closes it, so nothing is held between calls: no lock, no stale handle
after the file was moved, nothing to break in a fork. The file is in WAL mode: readers see the last committed state and
never wait for a writer; writers queue for up to WAIT_S. Plain SQL reads it too: `SELECT * FROM episodes`.
"""

import contextlib
import json
import math
import os
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, overload
from urllib.parse import quote

import numpy as np

from metta.errors import MettaError
from metta.eval import statistics
from metta.eval.agent_files import AgentFiles

VERSION = 1  # of the table below, in PRAGMA user_version
APPLICATION = 0x6D657461  # "meta": marks the file as ours, in PRAGMA application_id
WAIT_S = 60.0  # longest wait for other writers
HEADER = struct.Struct(">16s44xI4xI")  # SQLite's file header: magic, user_version at byte 60, application_id at 68

TABLE = """
CREATE TABLE episodes (
    run TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    env TEXT NOT NULL,
    agent_group TEXT NOT NULL,
    seed INTEGER NOT NULL,
    reward REAL NOT NULL,      -- mean over the group's agents of the sum of an episode's rewards
    length INTEGER NOT NULL,   -- environment steps
    agent_crc TEXT NOT NULL,   -- fingerprint of the agent file that played
    metrics TEXT NOT NULL,     -- JSON object: the environment's own statistics of the episode
    PRIMARY KEY (run, epoch, env, agent_group, seed)
) WITHOUT ROWID
"""


class EvalDBError(MettaError):
    """The database cannot be used."""


@dataclass(frozen=True)
class EpisodeRow:
    """One episode of one group of agents. `reward` is the mean over the group's agents of their episode returns."""

    seed: int
    reward: float
    length: int
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    agent_group: str = "all"


@dataclass(frozen=True)
class Score:
    """Mean reward over episodes with its 95% bootstrap interval (low, high), and the interquartile mean."""

    mean: float
    low: float
    high: float
    iqm: float
    episodes: int

    @classmethod
    def of(cls, rewards: Sequence[float]) -> "Score":
        """The score of these episodes; ValueError where there are none."""
        return _scores({(0, ""): rewards})[0, ""]


Scores: TypeAlias = dict[str, Score]  # env -> Score
Metrics: TypeAlias = dict[str, dict[str, float]]  # env -> metric -> mean


class EvalDB:
    """`EvalDB("train_dir/eval.db")`. A path that does not exist holds nothing, and is created by the first `record`.

    Every method raises EvalDBError for a file that is not a score database, is damaged, or was written by a newer
    metta; such a file is left as it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._exists()

    def record(self, run: str, epoch: int, env: str, rows: Sequence[EpisodeRow], agent_crc: str) -> None:
        """Store one evaluation, whole or not at all. Rows with the same seed and group are replaced.

        Rows that another agent file left for the same (run, epoch, env) go in the same transaction.
        """
        key = (run, int(epoch), env)
        values = [(*key, row.agent_group, int(row.seed), *_measured(row, key), agent_crc, _json(row)) for row in rows]
        if not self._exists():
            self._create()
        with self._transaction("BEGIN IMMEDIATE") as connection:
            connection.execute(
                "DELETE FROM episodes WHERE run = ? AND epoch = ? AND env = ? AND agent_crc != ?", (*key, agent_crc)
            )
            connection.executemany(
                "INSERT OR REPLACE INTO episodes"
                " (run, epoch, env, agent_group, seed, reward, length, agent_crc, metrics)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )

    @overload
    def get_scores(self, run: str, epoch: int, env: str | None = None, agent_group: str = "all") -> Scores: ...
    @overload
    def get_scores(
        self, run: str, epoch: None = None, env: str | None = None, agent_group: str = "all"
    ) -> dict[int, Scores]: ...
    def get_scores(
        self, run: str, epoch: int | None = None, env: str | None = None, agent_group: str = "all"
    ) -> Scores | dict[int, Scores]:
        """With an epoch: {env: Score}. Without: the whole history, {epoch: {env: Score}}. Nothing evaluated is {}."""
        rewards: dict[tuple[int, str], list[float]] = defaultdict(list)
        for at, name, reward in self._select("epoch, env, reward", run, epoch, env, agent_group):
            rewards[at, name].append(reward)
        history: dict[int, Scores] = defaultdict(dict)
        for (at, name), score in _scores(rewards).items():
            history[at][name] = score
        return dict(history) if epoch is None else history[epoch]

    @overload
    def get_metrics(self, run: str, epoch: int, env: str | None = None, agent_group: str = "all") -> Metrics: ...
    @overload
    def get_metrics(
        self, run: str, epoch: None = None, env: str | None = None, agent_group: str = "all"
    ) -> dict[int, Metrics]: ...
    def get_metrics(
        self, run: str, epoch: int | None = None, env: str | None = None, agent_group: str = "all"
    ) -> Metrics | dict[int, Metrics]:
        """As `get_scores`, with {metric: mean} in place of Score: over the episodes in which the metric is a number."""
        values: dict[tuple[int, str, str], list[float]] = defaultdict(list)
        history: dict[int, Metrics] = defaultdict(lambda: defaultdict(dict))
        for at, name, text in self._select("epoch, env, metrics", run, epoch, env, agent_group):
            history[at][name] = {}
            for metric, value in json.loads(text).items():
                if value is not None:
                    values[at, name, metric].append(value)
        for (at, name, metric), numbers in values.items():
            history[at][name][metric] = statistics.mean(numbers)
        return {at: dict(envs) for at, envs in history.items()} if epoch is None else dict(history[epoch])

    def latest_score(self, run: str) -> tuple[int, Scores] | None:
        """The latest epoch evaluated, of those whose agent file is there, and its scores; None where nothing was."""
        rows = self._query(
            "SELECT DISTINCT epoch, agent_crc FROM episodes WHERE run = ? AND agent_group = 'all' ORDER BY epoch DESC",
            (run,),
        )
        agents = AgentFiles(self.path.parent, run)
        latest = next((epoch for epoch, crc in rows if agents.has(epoch, crc)), None)
        return None if latest is None else (latest, self.get_scores(run, latest))

    def best_epoch(self, run: str, env: str | None = None) -> int | None:
        """The epoch with the highest mean reward, the later one of equals; None where nothing was evaluated.

        Only of epochs whose agent file is there. Without `env`: in the environment in which most of them were evaluated
        (of equals the first by name).
        """
        rows = self._query(
            "SELECT env, epoch, agent_crc, avg(reward) FROM episodes WHERE run = ? AND agent_group = 'all'"
            " GROUP BY epoch, env, agent_crc",
            (run,),
        )
        agents = AgentFiles(self.path.parent, run)
        means: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for name, epoch, crc, mean in rows:
            if agents.has(epoch, crc):
                means[name].append((mean, epoch))
        if env is None and means:
            env = min(means, key=lambda name: (-len(means[name]), name))
        return max(means[env])[1] if env in means else None

    def episodes(self, run: str, epoch: int, env: str) -> list[EpisodeRow]:
        """The rows of one evaluation, by group and seed."""
        columns = "seed, reward, length, metrics, agent_group"
        return [
            EpisodeRow(seed, reward, length, json.loads(metrics), group)
            for seed, reward, length, metrics, group in self._select(columns, run, epoch, env, None)
        ]

    def runs(self) -> list[str]:
        """Names of the runs that have scores, sorted."""
        return [name for (name,) in self._query(  # hops from name to name: no scan of millions of rows
            "WITH RECURSIVE names(name) AS (SELECT min(run) FROM episodes UNION ALL"
            " SELECT (SELECT min(run) FROM episodes WHERE run > name) FROM names WHERE name IS NOT NULL)"
            " SELECT name FROM names WHERE name IS NOT NULL"
        )]  # fmt: skip

    def _select(self, columns: str, run: str, epoch: int | None, env: str | None, group: str | None) -> list[Any]:
        """Rows in the order of the key (a walk along it), with the conditions that are given.

        What an agent file earned that another has replaced since is left out; of one that is gone, it is history.
        """
        at = None if epoch is None else int(epoch)
        conditions = {"run": run, "epoch": at, "env": env, "agent_group": group}
        given = {column: value for column, value in conditions.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in given)
        order = "run, epoch, env, agent_group, seed"
        sql = f"SELECT epoch, agent_crc, {columns} FROM episodes WHERE {where} ORDER BY {order}"
        agents = AgentFiles(self.path.parent, run)
        return [row for epoch, crc, *row in self._query(sql, tuple(given.values())) if agents.may_be(epoch, crc)]

    def rename_run(self, run: str, new_name: str) -> int:
        """Give all rows of a run another run's name, one that has none yet; returns how many there were."""
        if not self._exists():
            return 0
        with self._transaction("BEGIN IMMEDIATE") as connection:
            return connection.execute("UPDATE episodes SET run = ? WHERE run = ?", (new_name, run)).rowcount

    def _query(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        if not self._exists():
            return []
        with self._transaction("BEGIN") as connection:
            return connection.execute(sql, values).fetchall()

    def _exists(self) -> bool:
        """Whether there is a file; EvalDBError if it is not a score database that we understand. Does not touch it."""
        try:
            with open(self.path, "rb") as file:
                header = file.read(HEADER.size)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise EvalDBError(f"{self.path}: {error.strerror}") from error
        if len(header) < HEADER.size or not header.startswith(b"SQLite format 3\0"):
            raise EvalDBError(f"{self.path} is not a score database: move it away, or name another train_dir")
        _, version, application = HEADER.unpack(header)
        if application != APPLICATION:
            raise EvalDBError(f"{self.path} is another program's database: move it away, or name another train_dir")
        self._check_version(version)
        return True

    def _check_version(self, version: int) -> None:
        if version != VERSION:
            raise EvalDBError(
                f"{self.path} has score format {version}, this metta reads {VERSION}: use the metta that wrote it"
            )

    def _create(self) -> None:
        """Make the empty database beside its place and link it there: whole from the first moment, the first wins."""
        draft = self.path.with_name(f"{self.path.name}.new-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(draft)) as connection:
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute(TABLE)
                connection.execute("PRAGMA journal_mode = WAL")
            try:
                os.link(draft, self.path)
            except OSError:  # it is there by now, or the file system has no hard links (exFAT, SMB)
                if not self.path.exists():
                    os.rename(draft, self.path)
        except (OSError, sqlite3.Error) as error:
            raise EvalDBError(f"cannot create {self.path}: {error}") from error
        finally:
            draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """One connection for one transaction. SQLite's errors become EvalDBError; leaving by an error rolls back."""
        try:
            with contextlib.closing(self._connect()) as connection:
                connection.execute(begin)
                self._check_version(connection.execute("PRAGMA user_version").fetchone()[0])
                yield connection
                connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                error = sqlite3.OperationalError(f"another process has kept it locked for {WAIT_S:.0f} s")
            raise EvalDBError(f"{self.path}: {error}") from error
        except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
            raise  # a fault of ours, not of the file
        except sqlite3.DatabaseError as error:
            raise EvalDBError(f"{self.path} is damaged ({error}): move it away, or put back a copy") from error

    def _connect(self) -> sqlite3.Connection:
        """Open the file for writing; a file or folder that we may not write is opened for reading alone."""
        folder_writable = os.access(self.path.parent, os.W_OK)
        mode = "mode=rw" if folder_writable and os.access(self.path, os.W_OK) else "mode=ro"
        if not folder_writable and not self.path.with_name(self.path.name + "-wal").exists():
            mode += "&immutable=1"  # no writer is at work, and SQLite could not make the files that it shares with one
        uri = f"file:{quote(str(self.path.absolute()))}?{mode}"
        return sqlite3.connect(uri, uri=True, timeout=WAIT_S, isolation_level=None)


def _measured(row: EpisodeRow, key: tuple[str, int, str]) -> tuple[float, int]:
    if not math.isfinite(row.reward):
        raise EvalDBError(f"run={key[0]} epoch={key[1]} {key[2]}: reward {row.reward} of seed {row.seed} is not finite")
    return float(row.reward), int(row.length)


def _json(row: EpisodeRow) -> str:
    """A metric that is no number (0 / 0 in an environment's own statistics) is kept as null."""
    finite = {name: float(v) if v is not None and math.isfinite(v) else None for name, v in row.metrics.items()}
    return json.dumps(finite, separators=(",", ":"))


def _scores(evaluations: Mapping[tuple[int, str], Sequence[float]]) -> dict[tuple[int, str], Score]:
    """A Score for each evaluation, in order; those with as many episodes share one matrix product."""
    scores: dict[tuple[int, str], Score] = {}
    by_size: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for key, rewards in evaluations.items():
        by_size[len(rewards)].append(key)
    for size, keys in by_size.items():
        rows = np.array([evaluations[key] for key in keys])
        lows, highs = statistics.bootstrap_intervals(rows)
        columns = (statistics.means(rows), lows, highs, statistics.interquartile_means(rows))
        for key, (mean, low, high, iqm) in zip(keys, np.stack(columns, axis=1).tolist(), strict=True):
            scores[key] = Score(mean, low, high, iqm, size)
    return {key: scores[key] for key in evaluations}
