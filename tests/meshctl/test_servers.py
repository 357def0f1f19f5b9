"""Private servers: durable settings, data kept over restarts and crashes, nothing left running."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import nats
import psutil
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from meshctl.processes import ProcessFailed, ProcessRecord, free_port, free_ports, start_process, wait_until
from meshctl.servers import MariaDbServer, NatsServer, drop_database
from paykit.errors import ConfigurationError
from tests.conftest import MakeDatabases

pytestmark = pytest.mark.timeout(60)


def _query(url: str, statement: str) -> list[tuple[object, ...]]:
    engine = create_engine(make_url(url).set(drivername="mysql+pymysql"), poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


@pytest.mark.mariadb
def test_a_mariadb_server_is_durable_read_committed_and_utf8mb4(mariadb_servers: list[str]) -> None:
    for url in mariadb_servers:
        settings = "SELECT @@innodb_flush_log_at_trx_commit, @@tx_isolation, @@character_set_server"
        assert _query(url, settings) == [(1, "READ-COMMITTED", "utf8mb4")]


@pytest.mark.mariadb
def test_databases_are_made_on_both_servers_and_can_be_dropped(
    make_databases: MakeDatabases, mariadb_servers: list[str]
) -> None:
    first, second = make_databases(2)
    assert make_url(first).port != make_url(second).port
    _query(first, "CREATE TABLE held (id INT PRIMARY KEY)")
    drop_database(mariadb_servers[0], make_url(first).database or "")
    with pytest.raises(OperationalError, match="Unknown database"):
        _query(first, "SELECT 1")


@pytest.mark.mariadb
def test_a_mariadb_server_keeps_its_port_and_its_committed_data_over_a_crash(own_mariadb_server: MariaDbServer) -> None:
    url = own_mariadb_server.create_database("kept")
    _query(url, "CREATE TABLE held (id INT PRIMARY KEY)")
    _query(url, "INSERT INTO held VALUES (7)")
    own_mariadb_server.kill()
    own_mariadb_server.start()
    assert _query(url, "SELECT id FROM held") == [(7,)]
    own_mariadb_server.stop()
    with pytest.raises(OperationalError, match="Can't connect"):
        _query(url, "SELECT 1")


@pytest.mark.nats
async def test_a_nats_server_keeps_its_streams_over_a_restart(own_nats_server: NatsServer) -> None:
    client = await nats.connect(own_nats_server.url)
    await client.jetstream().add_stream(name="kept", subjects=["kept.>"])
    await client.jetstream().publish("kept.one", b"1")
    await client.close()
    own_nats_server.stop()
    own_nats_server.start()
    client = await nats.connect(own_nats_server.url)
    assert (await client.jetstream().stream_info("kept")).state.messages == 1
    await client.close()


def test_a_program_that_is_not_installed_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshctl.processes.shutil.which", lambda *_args, **_kwargs: None)
    with pytest.raises(ConfigurationError, match="mariadb-server"):
        MariaDbServer(tmp_path / "m").start()
    with pytest.raises(ConfigurationError, match="nats-server"):
        NatsServer(tmp_path / "n").start()


def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    record = start_process("short", [sys.executable, "-c", "print('out of paper')"], log)
    with pytest.raises(ProcessFailed, match="out of paper"):
        wait_until(lambda: False, record, log, timeout_s=10)


@pytest.mark.nats
def test_a_port_that_is_taken_by_another_program_fails_the_start_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = NatsServer(tmp_path, port=other.getsockname()[1])
        with pytest.raises(ProcessFailed):
            server.start()
        assert server.record is None


def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = (
        "import signal, threading; signal.signal(15, signal.SIG_IGN); print('up', flush=True); threading.Event().wait()"
    )
    record = start_process("deaf", [sys.executable, "-c", script], log)
    wait_until(lambda: b"up" in log.read_bytes(), record, log, timeout_s=10)
    assert record.stop(grace_s=0.2) is False
    assert not psutil.pid_exists(record.pid)


def test_a_pid_that_belongs_to_another_program_now_is_left_alone() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    created_s = psutil.Process(bystander.pid).create_time()
    ProcessRecord(name="ours", pid=bystander.pid, created_s=created_s - 60).kill()
    assert bystander.poll() is None
    bystander.communicate(timeout=10)
    assert bystander.returncode == 0


def test_free_ports_are_different_ones_and_the_preferred_where_it_is_free() -> None:
    wish = free_port()
    ports = free_ports([wish, wish, *[0] * 50])
    assert ports[0] == wish
    assert len(set(ports)) == 52
