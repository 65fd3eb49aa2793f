"""The table of episodes in PostgreSQL, by psycopg, which is imported when a URL is opened."""

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from metta.errors import hide_password, needed, one_line
from metta.eval import databases
from metta.eval.databases import APPLICATION, TABLE, VERSION, Database, EvalDBError

URL = re.compile(r"postgres(?:ql)?(?:\+psycopg)?://(.*)", re.DOTALL)
CONNECT_S = 10  # longest wait for a server that does not answer
TYPES = {"TEXT": 'TEXT COLLATE "C"', "INTEGER": "BIGINT", "REAL": "DOUBLE PRECISION"}  # for those of TABLE


class PostgreSQL(Database):
    """The table `episodes` in the server's database, made by the first writing. One connection is kept between calls.

    The table's comment says that it is ours, and its version.
    """

    def __init__(self, url: str):
        self.name = hide_password(url)
        self._psycopg: Any = needed("psycopg", self.name, "postgres", "; scores in a file need nothing")
        self._url = URL.sub(r"postgresql://\1", url)
        self._turn = threading.Lock()  # of the threads that share the connection
        self._kept: Any = None
        self._pid = os.getpid()
        self.read("SELECT 1 FROM episodes LIMIT 1")

    def check_writable(self) -> None:
        """Nothing to say: connecting was tried already."""

    @contextlib.contextmanager
    def _transaction(self, run: str | None) -> Iterator[Any]:
        psycopg = self._psycopg
        with self._turn:
            try:
                with (connection := self._connect()).transaction(), connection.cursor() as cursor:
                    there = self._exists(cursor)
                    if run is not None:
                        cursor.execute(f"SET LOCAL lock_timeout = {max(1, databases.WAIT_S * 1000):.0f}")
                        there = there or self._create(cursor)
                        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"metta {run}",))
                    yield cursor if there else None
            except psycopg.IntegrityError:
                raise  # a fault of ours, not of the server
            except psycopg.errors.LockNotAvailable as error:
                raise EvalDBError(
                    f"{self.name}: another process has kept it locked for {databases.WAIT_S:.0f} s"
                ) from error
            except psycopg.Error as error:
                raise EvalDBError(f"{self.name}: {self._without_password(error)}") from None

    def _connect(self) -> Any:
        """The connection of the call before, if it is this process's and still answers; else a new one."""
        if self._kept is not None and self._pid == os.getpid():
            with contextlib.suppress(self._psycopg.Error):
                self._kept.execute("SELECT 1")
                return self._kept
            self._kept.close()
        timeout = {} if "connect_timeout=" in self._url else {"connect_timeout": CONNECT_S}
        self._kept, self._pid = self._psycopg.connect(self._url, autocommit=True, **timeout), os.getpid()
        weakref.finalize(self, self._kept.close)
        return self._kept

    def _exists(self, cursor: Any) -> bool:
        """Whether there is a table; EvalDBError if it is not one that we understand."""
        cursor.execute(  # to_regclass would not see a table that has been made since this transaction began
            "SELECT obj_description(oid, 'pg_class') FROM pg_class"
            " WHERE relname = 'episodes' AND pg_table_is_visible(oid)"
        )
        found = cursor.fetchone()
        if found is None:
            return False
        ours = re.fullmatch(r"metta scores ([0-9]+)", found[0] or "")
        if ours is None:
            raise EvalDBError(f"{self.name}: its table episodes is another program's: name another database")
        self._check_version(int(ours[1]))
        return True

    def _create(self, cursor: Any) -> bool:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (APPLICATION,))
        if not self._exists(cursor):  # nobody has made it meanwhile
            cursor.execute(re.sub("|".join(TYPES), lambda kind: TYPES[kind[0]], TABLE))
            cursor.execute(f"COMMENT ON TABLE episodes IS 'metta scores {VERSION}'")
        return True

    def _dialect(self, sql: str) -> str:
        return sql.replace("?", "%s")

    def _without_password(self, error: Exception) -> str:
        """What the server or the driver says, which may quote a part of the URL."""
        text = one_line(str(error))
        for secret in re.findall(r"//[^:/@]*:(.*)@|[?&]password=([^&]*)", self._url):
            for part in filter(None, secret):
                text = text.replace(part, "***")
        return text
