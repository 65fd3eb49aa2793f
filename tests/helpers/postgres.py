"""A PostgreSQL server of our own, from Debian's package, for the tests that need one."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

USER, PASSWORD = "metta", "pass:w%rd/@1"
QUOTED = "pass:w%25rd%2F%401"  # the password, as it stands in a URL


def binaries() -> Path | None:
    """Where initdb and pg_ctl are; Debian puts them beside the PATH."""
    found = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return debian[-1].parent if debian else Path(found).parent if found else None


@contextmanager
def server(programs: Path) -> Iterator[str]:
    """Start it on a free port; the URL of its database. It does not run as root: then it is nobody's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="metta-postgres-"))
    who: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    (folder / "password").write_text(PASSWORD)
    if who:
        shutil.chown(folder, "nobody", "nogroup")
        shutil.chown(folder / "password", "nobody", "nogroup")

    def run(program: str, *arguments: object) -> None:
        command = [str(programs / program), "-D", str(folder / "data"), *map(str, arguments)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=folder, **who)

    options = f"-F -h 127.0.0.1 -p {port} -k {folder}"
    try:
        encoding = ("--encoding=UTF8", "--no-locale", "--no-sync")
        run("initdb", "-U", USER, "-A", "scram-sha-256", "--pwfile=password", *encoding)
        run("pg_ctl", "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://{USER}:{QUOTED}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def new_schema(url: str) -> str:
    """Make an empty schema; the URL under which it is what one finds in the database."""
    name = f"test_{os.urandom(4).hex()}"
    with connect(url) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{url}?options=-csearch_path%3D{name}"


def connect(url: str) -> psycopg.Connection:
    """Connect as any other program does."""
    return psycopg.connect(url.replace("+psycopg", ""))
