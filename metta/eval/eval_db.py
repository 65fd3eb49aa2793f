"""Scores of every run: a row per episode and agent group, key (run, epoch, env, agent_group, seed).

They lie in one SQLite file (sqlite_file.py) or in PostgreSQL (postgresql.py). Plain SQL reads them too:
`SELECT * FROM episodes`.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias, overload

from metta.envs.env_spec import SAMPLED, AnyEnv, EnvName
from metta.errors import UserError
from metta.eval import statistics
from metta.eval.agent_files import AgentFiles
from metta.eval.databases import COLUMNS, KEY, UPSERT, URL_FORM, Database, EvalDBError
from metta.eval.postgresql import URL, PostgreSQL
from metta.eval.sqlite_file import SQLite
from metta.eval.statistics import Score
from metta.keys import whole
from metta.run_folder import Folder, TrainDir, expanded

MOST_REWARD = 1e300  # of an episode: the sums of many are floats too


@dataclass(frozen=True)
class EpisodeRow:
    """One episode of one group of agents. `reward` is the mean over the group's agents of their episode returns."""

    seed: int
    reward: float
    length: int
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    agent_group: str = "all"


Scores: TypeAlias = dict[str, Score]  # env -> Score
Metrics: TypeAlias = dict[str, dict[str, float]]  # env -> metric -> mean


class EvalDB:
    """`EvalDB("train_dir/eval.db")` or `EvalDB("postgresql://user@host/database")`.

    A path that does not exist, or a database without our table, holds nothing; the first `record` creates it.

    Every method raises EvalDBError for what is no score database, is damaged, cannot be reached, or was written by a
    newer metta; such a one is left as it is.
    """

    def __init__(self, where: str | Path, train_dir: Folder | None = None) -> None:
        """train_dir: where the agent files lie that earned the scores. None: beside the file; of a URL, nowhere."""
        self.path: Path | None = None  # of a file
        self._train_dir = None if train_dir is None else Path(train_dir)
        if not isinstance(where, str) or "://" not in where:
            self.path = expanded(where)
            self._database: Database = SQLite(self.path)
            self._train_dir = self._train_dir or self.path.parent
        elif URL.fullmatch(where):
            self._database = PostgreSQL(where)
        else:
            raise EvalDBError(f"{where}: scores are in a file, or in {URL_FORM}")
        self.name = self._database.name  # the path, or the URL without its password

    def check_writable(self) -> None:
        """Raise EvalDBError if it is clear already that `record` would."""
        self._database.check_writable()

    def record(
        self,
        run: str,
        epoch: int,
        env: str,
        rows: Sequence[EpisodeRow],
        agent_crc: str,
        sampled: bool = False,
        anew: bool = False,
    ) -> None:
        """Store one evaluation, whole or not at all. Rows with the same seed and group are replaced.

        Rows that another agent file left for the same (run, epoch, env) go in the same transaction; anew: all others.
        sampled: whether actions were drawn where by default they are the likeliest; such scores are apart.
        """
        key = (run, whole("epoch", epoch), scored_env(env, sampled))
        if "\0" in f"{run}{env}":
            raise EvalDBError(f"run={run!r} env={env!r}: no name that PostgreSQL can hold has a NUL")
        stored = [(*key, row.agent_group, *_measured(row, key), agent_crc, _json(row)) for row in rows]
        self._store(run, stored, anew)

    def _store(self, run: str, rows: Sequence[tuple[Any, ...]], anew: bool = False) -> None:
        """Put in rows of one run, in the order of COLUMNS, and take out those of other agent files; anew: of any."""
        crc = COLUMNS.index("agent_crc")
        agents = sorted({(*row[:3], "" if anew else row[crc]) for row in rows})
        others = "DELETE FROM episodes WHERE run = ? AND epoch = ? AND env = ? AND agent_crc != ?"
        self._database.write(run, [(others, agents), (UPSERT, rows)])

    @overload
    def get_scores(
        self, run: str, epoch: int, env: AnyEnv | None = None, agent_group: str = "all", sampled: bool | None = False
    ) -> Scores: ...
    @overload
    def get_scores(
        self,
        run: str,
        epoch: None = None,
        env: AnyEnv | None = None,
        agent_group: str = "all",
        sampled: bool | None = False,
    ) -> dict[int, Scores]: ...
    def get_scores(
        self,
        run: str,
        epoch: int | None = None,
        env: AnyEnv | None = None,
        agent_group: str = "all",
        sampled: bool | None = False,
    ) -> Scores | dict[int, Scores]:
        """With an epoch: {env: Score}. Without: the whole history, {epoch: {env: Score}}. Nothing evaluated is {}.

        sampled: of evaluations with `sampled=True`, or of the others; None: of both, the former as "ENV sampled".
        """
        rewards: dict[tuple[int, str], list[float]] = defaultdict(list)
        for at, name, reward in self._select("reward", run, epoch, env, agent_group, sampled):
            rewards[at, name].append(reward)
        history: dict[int, Scores] = defaultdict(dict)
        for (at, name), score in statistics.score_each(rewards).items():
            history[at][name] = score
        return dict(history) if epoch is None else history[epoch]

    @overload
    def get_metrics(
        self, run: str, epoch: int, env: AnyEnv | None = None, agent_group: str = "all", sampled: bool | None = False
    ) -> Metrics: ...
    @overload
    def get_metrics(
        self,
        run: str,
        epoch: None = None,
        env: AnyEnv | None = None,
        agent_group: str = "all",
        sampled: bool | None = False,
    ) -> dict[int, Metrics]: ...
    def get_metrics(
        self,
        run: str,
        epoch: int | None = None,
        env: AnyEnv | None = None,
        agent_group: str = "all",
        sampled: bool | None = False,
    ) -> Metrics | dict[int, Metrics]:
        """As `get_scores`, with {metric: mean} in place of Score: over the episodes in which the metric is a number."""
        values: dict[tuple[int, str, str], list[float]] = defaultdict(list)
        history: dict[int, Metrics] = defaultdict(lambda: defaultdict(dict))
        for at, name, text in self._select("metrics", run, epoch, env, agent_group, sampled):
            history[at][name] = {}
            for metric, value in self._database.metrics(text).items():
                if value is not None:
                    values[at, name, metric].append(value)
        for (at, name, metric), numbers in values.items():
            history[at][name][metric] = statistics.mean(numbers)
        return {at: dict(envs) for at, envs in history.items()} if epoch is None else dict(history[epoch])

    def latest_score(self, run: str) -> tuple[int, Scores] | None:
        """The latest epoch evaluated, of those whose agent file is there, and its scores (sampled=None); else None."""
        rows = self._database.read(
            "SELECT DISTINCT epoch, agent_crc FROM episodes WHERE run = ? AND agent_group = 'all' ORDER BY epoch DESC",
            (run,),
        )
        agents = AgentFiles(self._train_dir, run)
        latest = next((epoch for epoch, crc in rows if agents.has(epoch, crc)), None)
        return None if latest is None else (latest, self.get_scores(run, latest, sampled=None))

    def best_epoch(self, run: str, env: AnyEnv | None = None, sampled: bool | None = None) -> int | None:
        """The epoch with the highest mean reward, the later one of equals; None where nothing was evaluated.

        Only of epochs whose agent file is there. Without `env`: in the environment in which most of them were evaluated
        (of equals the first by name). sampled: as in `get_scores`; with an `env`, None is False.
        """
        rows = self._database.read(
            "SELECT env, epoch, agent_crc, avg(reward) AS reward FROM episodes WHERE run = ? AND agent_group = 'all'"
            " GROUP BY epoch, env, agent_crc",
            (run,),
        )
        agents = AgentFiles(self._train_dir, run)
        means: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for name, epoch, crc, reward in rows:
            if agents.has(epoch, crc) and sampled in (None, name.endswith(SAMPLED)):
                means[name].append((reward, epoch))
        name = None if env is None else scored_env(env, sampled)
        if name is None and means:
            name = min(means, key=lambda name: (-len(means[name]), name))
        return max(means[name])[1] if name in means else None

    def episodes(self, run: str, epoch: int, env: AnyEnv, sampled: bool = False) -> list[EpisodeRow]:
        """The rows of one evaluation, by group and seed."""
        columns = "seed, reward, length, metrics, agent_group"
        return [
            EpisodeRow(seed, reward, length, self._database.metrics(metrics), group)
            for _, _, seed, reward, length, metrics, group in self._select(columns, run, epoch, env, None, sampled)
        ]

    def agents(self, run: str, epoch: int) -> set[str]:
        """The fingerprints of the agent files that earned the scores of an epoch."""
        sql = "SELECT DISTINCT agent_crc FROM episodes WHERE run = ? AND epoch = ?"
        return {crc for (crc,) in self._database.read(sql, (run, whole("epoch", epoch)))}

    def runs(self) -> list[str]:
        """Names of the runs that have scores, sorted."""
        return [name for (name,) in self._database.read(  # hops from name to name: no scan of millions of rows
            "WITH RECURSIVE names(name) AS (SELECT min(run) FROM episodes UNION ALL"
            " SELECT (SELECT min(run) FROM episodes WHERE run > name) FROM names WHERE name IS NOT NULL)"
            " SELECT name AS run FROM names WHERE name IS NOT NULL"
        )]  # fmt: skip

    def _select(
        self, columns: str, run: str, epoch: int | None, env: AnyEnv | None, group: str | None, sampled: bool | None
    ) -> list[Any]:
        """Epoch, env and these columns, in the order of the key (a walk along it), with the conditions that are given.

        What an agent file earned that another has replaced since is left out; of one that is gone, it is history.
        """
        at = None if epoch is None else whole("epoch", epoch)
        name = None if env is None else scored_env(env, sampled)
        conditions = {"run": run, "epoch": at, "env": name, "agent_group": group}
        given = {column: value for column, value in conditions.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in given)
        sql = f"SELECT agent_crc, epoch, env, {columns} FROM episodes WHERE {where} ORDER BY {', '.join(KEY)}"
        agents = AgentFiles(self._train_dir, run)
        return [
            (epoch, label.removesuffix(SAMPLED) if sampled else label, *row)
            for crc, epoch, label, *row in self._database.read(sql, tuple(given.values()))
            if agents.may_be(epoch, crc) and (env is not None or sampled in (None, label.endswith(SAMPLED)))
        ]

    def rename_run(self, run: str, new_name: str) -> int:
        """Give all rows of a run another run's name, one that has none yet; returns how many there were."""
        if not self._database.read("SELECT 1 FROM episodes WHERE run = ? LIMIT 1", (run,)):
            return 0
        return self._database.write(run, [("UPDATE episodes SET run = ? WHERE run = ?", [(new_name, run)])])

    def table(self, runs: Sequence[str] | None = None) -> Iterator[tuple[Any, ...]]:
        """Iterate over the rows of these runs (None: of all), run by run, in the order of COLUMNS.

        Those of agent files that others have replaced are left out, as everywhere.
        """
        for run in self.runs() if runs is None else runs:
            for row in self._select(", ".join(COLUMNS[3:]), run, None, None, None, None):
                yield (run, *row)

    def copy_to(self, other: "EvalDB", runs: Sequence[str] | None = None) -> int:
        """Record in another database what is here, each run whole or not at all; returns how many rows that are.

        What is here of a (run, epoch, env) takes the place of all that is there: for two versions of the environment's
        code may have scores of one agent file, and no row says which is whose.
        """
        count = 0
        for run, rows in groupby(self.table(runs), key=lambda row: row[0]):
            other._store(run, stored := list(rows), anew=True)
            count += len(stored)
        return count


def open_scores(train_dir: Folder, eval_db: str | Path | None = None) -> EvalDB:
    """Open the scores of the runs in train_dir: in its eval.db unless `eval_db` says where."""
    return EvalDB(TrainDir(train_dir).eval_db if eval_db is None else eval_db, train_dir)


def scored_env(env: AnyEnv, sampled: bool | None) -> str:
    """Name the environment as its scores do: "CartPole-v1 sampled" where actions were drawn on demand."""
    if not isinstance(sampled, bool | None):
        raise UserError(f"sampled={sampled!r}: must be True or False")
    label = env if isinstance(env, str) else EnvName.of(env).label
    return f"{label}{SAMPLED}" if sampled else label


def _measured(row: EpisodeRow, key: tuple[str, int, str]) -> tuple[int, float, int]:
    reward = float(row.reward)
    if not abs(reward) <= MOST_REWARD:
        which = f"run={key[0]} epoch={key[1]} {key[2]}: reward {reward} of seed {row.seed}"
        raise EvalDBError(f"{which} is not finite, or beyond {MOST_REWARD:g}")
    return whole("seed", row.seed), reward, int(row.length)


def _json(row: EpisodeRow) -> str:
    """A metric that is no number (0 / 0 in an environment's own statistics) is kept as null."""
    finite = {name: float(v) if v is not None and math.isfinite(v) else None for name, v in row.metrics.items()}
    return json.dumps(finite, separators=(",", ":"))
