"""A shell may start a background job with SIGINT ignored, which children inherit: tests send SIGINT to theirs."""

import signal
from collections.abc import Iterator

import pytest

from tests.helpers import postgres

signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server that runs as long as the tests do."""
    programs = postgres.binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    with postgres.server(programs) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of an empty place of the test's own on that server."""
    return postgres.new_schema(postgres_server)
