"""The table of episodes, whatever database it is in: sqlite_file.py and postgresql.py have all that differs.

Both take the same SQL, with `?` for a value. A call is one transaction: readers see the last committed state and never
wait for a writer; writers of one run queue for up to WAIT_S.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeAlias

from metta.errors import MettaError

Values: TypeAlias = Sequence[Any]

VERSION = 1  # of the table below
APPLICATION = 0x6D657461  # "meta": marks what is ours
WAIT_S = 60.0  # longest wait for other writers
URL_FORM = "postgresql://user@host/database"

KEY = {"run": str, "epoch": int, "env": str, "agent_group": str, "seed": int}
KINDS = {**KEY, "reward": float, "length": int, "agent_crc": str, "metrics": str}  # of a column's values in Python
COLUMNS = tuple(KINDS)
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
)
"""
UPSERT = (
    f"INSERT INTO episodes ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
    f" ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in COLUMNS if column not in KEY)
)


class EvalDBError(MettaError):
    """The database cannot be used."""


class Database(ABC):
    """The table of episodes. Every method raises EvalDBError where it cannot be used, and leaves it as it is then."""

    name: str  # for the user: a path, or a URL without its password

    def read(self, sql: str, values: Values = ()) -> list[Any]:
        """The rows of a query; none where there is no table yet.

        EvalDBError where a column of our table, by its name, holds a value of another kind: the file is damaged.
        """
        with self._transaction(None) as cursor:
            if cursor is None:
                return []
            cursor.execute(self._dialect(sql), values)
            rows = list(cursor.fetchall())
            for (column, *_), found in zip(cursor.description, zip(*rows, strict=True), strict=bool(rows)):
                if column in KINDS and not set(map(type, found)) <= {KINDS[column]}:
                    raise EvalDBError(f"{self.name} is damaged: a value of {column} is no {KINDS[column].__name__}")
            return rows

    def write(self, run: str, statements: Sequence[tuple[str, Sequence[Values]]]) -> int:
        """Execute each statement with each of its rows of values, all or nothing; count the rows of the last one.

        run: whose other writers wait meanwhile.
        """
        with self._transaction(run) as cursor:
            for sql, rows in statements:
                cursor.executemany(self._dialect(sql), rows)
            return int(cursor.rowcount)

    @abstractmethod
    def check_writable(self) -> None:
        """Raise EvalDBError if it is clear already that nothing can be stored here."""

    @abstractmethod
    def _transaction(self, run: str | None) -> AbstractContextManager[Any]:
        """Open a transaction that writes rows of the run, or one that reads; its cursor is None where no table is."""

    def _dialect(self, sql: str) -> str:
        return sql

    def _check_version(self, version: int) -> None:
        if version != VERSION:
            raise EvalDBError(
                f"{self.name} has score format {version}, this metta reads {VERSION}: use the metta that wrote it"
            )

    def metrics(self, text: str) -> dict[str, float | None]:
        """Read the column `metrics`. EvalDBError where it holds something else."""
        with suppress(ValueError):
            if isinstance(found := json.loads(text), dict) and {type(v) for v in found.values()} <= {float, type(None)}:
                return found
        raise EvalDBError(f"{self.name} is damaged: {text!r:.40} are no metrics")
