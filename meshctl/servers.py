"""Private MariaDB and NATS servers: child processes on free ports of 127.0.0.1, with all they write in one folder.

A machine's own servers are never touched: no default configuration file is read, and no default port, socket or data
folder is used. A folder keeps its data, so a server started on it again has what it had.
"""

from __future__ import annotations

import abc
import os
import secrets
import socket
import subprocess
from functools import cached_property
from pathlib import Path

import pymysql
from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema, DropSchema

from meshctl.processes import (
    ProcessFailed,
    ProcessRecord,
    free_port,
    require_program,
    start_process,
    wait_until,
)

MARIADB_PACKAGE = "mariadb-server"
NATS_PACKAGE = "nats-server"
USER = "paymesh"

INIT_TIMEOUT_S = 120
START_TIMEOUT_S = 60
START_ATTEMPTS = 5  # a port that was free may be taken before the server listens on it
STOP_GRACE_S = 30

# Run by the server itself before it takes connections; the password is URL-safe base64, so it needs no quoting.
_USER_SCRIPT = """\
CREATE OR REPLACE USER '{user}'@'127.0.0.1' IDENTIFIED BY '{password}';
GRANT ALL PRIVILEGES ON *.* TO '{user}'@'127.0.0.1';
CREATE OR REPLACE USER '{user}'@'localhost' IDENTIFIED BY '{password}';
GRANT ALL PRIVILEGES ON *.* TO '{user}'@'localhost';
"""


class Server(abc.ABC):
    """A server that this program starts and stops, with its data and its log under ``directory``.

    ``port`` 0 picks a free one, kept for later starts. ``tied`` ends it with the thread that started it, however that
    ends. ``name`` is for logs and for people. ``record`` is the process, where it runs.
    """

    def __init__(self, directory: Path, port: int = 0, *, tied: bool = True, name: str = "") -> None:
        self.directory = directory.resolve()
        self.port = port
        self.name = name or self.directory.name
        self.log = self.directory / "server.log"
        self.record: ProcessRecord | None = None
        self._tied = tied

    def start(self) -> None:
        """Starts it and waits until it takes connections; ProcessFailed with the end of its log where it does not."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._prepare()
        attempts = 1 if self.port else START_ATTEMPTS
        for attempt in range(1, attempts + 1):
            port = self.port or free_port()
            try:
                self.record = self._launch(port)
            except ProcessFailed:
                if attempt == attempts:
                    raise
            else:
                self.port = port
                return

    def stop(self) -> None:
        """Stops it cleanly and waits until it has ended; nothing where it does not run."""
        if self.record is not None:
            self.record.stop(STOP_GRACE_S)
            self.record = None

    def kill(self) -> None:
        """Ends it at once, as a crash would; nothing where it does not run."""
        if self.record is not None:
            self.record.kill()
            self.record = None

    def _launch(self, port: int) -> ProcessRecord:
        record = start_process(self.name, self._command(port), self.log, tied=self._tied)
        try:
            wait_until(lambda: self._answers(port), record, self.log, START_TIMEOUT_S)
        except BaseException:
            record.kill()
            raise
        return record

    def _prepare(self) -> None:  # noqa: B027 - most servers need nothing
        """Makes what the first start needs."""

    @abc.abstractmethod
    def _command(self, port: int) -> list[str]:
        """The program and its arguments."""

    @abc.abstractmethod
    def _answers(self, port: int) -> bool:
        """Whether this very server takes connections on ``port``."""


_SOCKET = "server.sock"
_SOCKET_PATH_BYTES_MAX = 100  # the system's own limit is 107


class MariaDbServer(Server):
    """One MariaDB server, durable and READ COMMITTED as the shards demand it.

    ``buffer_pool_mb``: InnoDB's buffer pool, mebibytes.
    """

    def __init__(
        self, directory: Path, port: int = 0, *, tied: bool = True, name: str = "", buffer_pool_mb: int = 256
    ) -> None:
        super().__init__(directory, port, tied=tied, name=name)
        self._buffer_pool_mb = buffer_pool_mb

    def url(self, database: str = "") -> str:
        """The SQLAlchemy URL of ``database``, or of the server; through its socket where that has a usable path."""
        url = URL.create("mysql+aiomysql", USER, self._password, "127.0.0.1", self.port, database or None)
        socket = (self.directory / "data" / _SOCKET).resolve()
        if len(os.fsencode(socket)) <= _SOCKET_PATH_BYTES_MAX:
            # A send through loopback TCP costs both ends twice what one through a socket does.
            url = url.update_query_dict({"unix_socket": str(socket)})
        return url.render_as_string(hide_password=False)

    def create_database(self, name: str) -> str:
        """Makes the database ``name`` where it does not exist; its URL."""
        return create_database(self.url(), name)

    @cached_property
    def _password(self) -> str:
        return _password_in(self.directory)

    def _prepare(self) -> None:
        data = self.directory / "data"
        if not data.exists():
            _initialise(data, self.directory / "init.log")

    def _command(self, port: int) -> list[str]:
        script = self.directory / "user.sql"
        script.touch(mode=0o600)
        script.write_text(_USER_SCRIPT.format(user=USER, password=self._password))
        return [
            require_program(MARIADB_PACKAGE, "mariadbd", "mysqld"),
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={_SOCKET}",  # relative to the data folder: an absolute path may be too long for a socket
            f"--pid-file={self.directory / 'server.pid'}",
            f"--init-file={script}",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_bin",
            "--transaction-isolation=READ-COMMITTED",
            "--innodb-flush-log-at-trx-commit=1",
            f"--innodb-buffer-pool-size={self._buffer_pool_mb}M",
            "--max-connections=300",
            "--log-warnings=1",
            *_as_current_user(),
        ]

    def _answers(self, port: int) -> bool:
        try:
            # Only our own server knows the password: another program on the port is never taken for it.
            pymysql.connect(
                host="127.0.0.1", port=port, user=USER, password=self._password, connect_timeout=5, read_timeout=5
            ).close()
        except pymysql.MySQLError:
            return False
        return True


class NatsServer(Server):
    """One NATS server with JetStream."""

    @property
    def url(self) -> str:
        """nats://host:port."""
        return f"nats://127.0.0.1:{self.port}"

    def _command(self, port: int) -> list[str]:
        return [
            require_program(NATS_PACKAGE, "nats-server"),
            "--jetstream",
            f"--store_dir={self.directory / 'store'}",
            "--addr=127.0.0.1",
            f"--port={port}",
            f"--server_name={self._server_name(port)}",
        ]

    def _answers(self, port: int) -> bool:
        # It speaks first, with a line that names it: another program on the port is never taken for it.
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.settimeout(2)
                return f'"server_name":"{self._server_name(port)}"'.encode() in connection.recv(4096)
        except OSError:
            return False

    def _server_name(self, port: int) -> str:
        return f"{self.name}-{os.getpid()}-{port}"


def create_database(server_url: str, name: str) -> str:
    """Makes the database ``name`` on a MySQL-compatible server where it does not exist; its async URL."""
    _execute(server_url, CreateSchema(name, if_not_exists=True))
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


def drop_database(server_url: str, name: str) -> None:
    """Removes the database ``name`` and all in it; nothing where it does not exist."""
    _execute(server_url, DropSchema(name, if_exists=True))


def _execute(server_url: str, statement: CreateSchema | DropSchema) -> None:
    url = make_url(server_url).set(drivername="mysql+pymysql")
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 10})
    with engine.connect() as connection:
        connection.execute(statement)


def _password_in(directory: Path) -> str:
    path = directory / "password"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(18))
    return path.read_text()


def _initialise(data: Path, log: Path) -> None:
    """Makes a data folder, complete or not at all."""
    unfinished = data.with_name(f"{data.name}.{os.getpid()}")
    command = [
        require_program(MARIADB_PACKAGE, "mariadb-install-db", "mysql_install_db"),
        "--no-defaults",
        f"--datadir={unfinished}",
        "--skip-test-db",
        "--auth-root-authentication-method=socket",
        *_as_current_user(),
    ]
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=INIT_TIMEOUT_S,
            # Two that run at once stumble over each other's temporary tables in a shared folder.
            env={**os.environ, "TMPDIR": str(data.parent)},
        )
    if done.returncode != 0:
        raise ProcessFailed(f"mariadb-install-db failed:\n{log.read_text(errors='replace')}")
    unfinished.rename(data)


def _as_current_user() -> list[str]:
    # The server refuses to run as root unless it is told that this is meant.
    return ["--user=root"] if os.geteuid() == 0 else []
