"""Private servers and fresh databases for the tests. A server starts when the first test needs it, and only then.

``PAYMESH_TEST_MYSQL_URLS`` (two URLs, separated by a space) and ``PAYMESH_TEST_NATS_URL`` name servers to use instead:
on those, what the tests make is removed after each.
"""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from meshctl.processes import find_program
from meshctl.servers import MariaDbServer, NatsServer, create_database, drop_database
from paykit.settings import ShardSettings

# Taken out of the environment: to a service, an unknown PAYMESH_ variable is a configuration error.
MYSQL_URLS = os.environ.pop("PAYMESH_TEST_MYSQL_URLS", "").replace(",", " ").split()
NATS_URL = os.environ.pop("PAYMESH_TEST_NATS_URL", "")

MODES = ("live", "shadow")
BACKENDS = (
    pytest.param("sqlite"),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
)


def pytest_configure() -> None:
    """Lets a run that is asked to end (SIGTERM) take its fixtures down, servers among them, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Divides the tests between processes, where there are several."""
    from tests.schedule import scheduler

    return scheduler(config, log)


class MakeDatabases(Protocol):
    """Makes ``count`` empty MariaDB databases, on the two servers in turn; their SQLAlchemy async URLs."""

    def __call__(self, count: int) -> list[str]: ...


class MakeShards(Protocol):
    """Makes ``count`` empty shards named s0, s1, …, each with a database for every mode."""

    def __call__(self, count: int = 2, modes: Sequence[str] = MODES) -> dict[str, ShardSettings]: ...


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """Where the private servers keep their data, outside of what pytest keeps of its last runs."""
    with tempfile.TemporaryDirectory(prefix="paymesh-tests-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def mariadb_servers(server_directory: Path) -> Iterator[list[str]]:
    """The URLs of two MariaDB servers."""
    if MYSQL_URLS:
        if len(MYSQL_URLS) != 2:
            pytest.exit("PAYMESH_TEST_MYSQL_URLS must name two servers", returncode=2)
        yield MYSQL_URLS
        return
    with ExitStack() as started:
        urls = []
        for name in ("mariadb-1", "mariadb-2"):
            server = MariaDbServer(server_directory / name, name=name)
            started.callback(server.kill)  # nothing it holds is wanted any more
            server.start()
            urls.append(server.url())
        yield urls


@pytest.fixture(scope="session")
def nats_server(server_directory: Path) -> Iterator[str]:
    """The URL of a NATS server with JetStream, shared by all tests."""
    if NATS_URL:
        yield NATS_URL
        return
    server = NatsServer(server_directory / "nats")
    try:
        server.start()
        yield server.url
    finally:
        server.kill()


@pytest.fixture
def own_mariadb_server(tmp_path: Path) -> Iterator[MariaDbServer]:
    """A small MariaDB server of the test's own, empty, which it may stop, kill and start again."""
    if MYSQL_URLS and find_program("mariadbd") is None:
        pytest.skip("needs the program mariadbd: this test stops and starts a server")
    # In a folder whose name is longer than the address of a unix socket may be.
    server = MariaDbServer(tmp_path / ("long-" * 20) / "mariadb", buffer_pool_mb=32)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A NATS server of the test's own, empty, which it may stop, kill and start again."""
    if NATS_URL and find_program("nats-server") is None:
        pytest.skip("needs the program nats-server: this test stops and starts a server")
    server = NatsServer(tmp_path / "nats")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def make_databases(request: pytest.FixtureRequest) -> Iterator[MakeDatabases]:
    """See MakeDatabases. What was made is removed after the test."""
    made: list[tuple[str, str]] = []

    def make(count: int) -> list[str]:
        servers: list[str] = request.getfixturevalue("mariadb_servers")
        urls = []
        for number in range(count):
            server, name = servers[number % len(servers)], f"test_{secrets.token_hex(6)}"
            made.append((server, name))
            urls.append(create_database(server, name))
        return urls

    yield make
    for server, name in made:
        drop_database(server, name)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Runs the test once on each: "sqlite", "mariadb"."""
    name: str = request.param
    return name


@pytest.fixture
def make_shards(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> MakeShards:
    """See MakeShards; on the test's ``backend``. The shards lie on the two servers in turn."""
    make_urls: Callable[[int, str], list[str]]
    if backend == "mariadb":
        make_databases: MakeDatabases = request.getfixturevalue("make_databases")

        def make_urls(count: int, mode: str) -> list[str]:
            return make_databases(count)
    else:

        def make_urls(count: int, mode: str) -> list[str]:
            token = secrets.token_hex(4)
            return [f"sqlite+aiosqlite:///{tmp_path}/{token}_s{number}_{mode}.db" for number in range(count)]

    def make(count: int = 2, modes: Sequence[str] = MODES) -> dict[str, ShardSettings]:
        urls = {mode: make_urls(count, mode) for mode in modes}
        return {
            f"s{number}": ShardSettings(
                live=urls["live"][number], shadow=urls["shadow"][number] if "shadow" in urls else None
            )
            for number in range(count)
        }

    return make
