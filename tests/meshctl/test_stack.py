"""The full stack: real servers, each service its own process, started and stopped by whoever holds the folder."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import psutil
import pytest
from sqlalchemy import make_url

from meshctl.layout import MODES, SHARDS
from meshctl.processes import ProcessFailed
from meshctl.settings import SERVICES
from meshctl.stack import APPLICATIONS, MARIADB_SERVERS, NATS, Stack, is_serving, running_stack
from paykit.errors import ConfigurationError

pytestmark = [pytest.mark.mariadb, pytest.mark.nats, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


def test_every_service_serves_as_its_own_process(stack: Stack) -> None:
    records = stack.running()
    assert set(records) == {*MARIADB_SERVERS, NATS, *APPLICATIONS}
    assert len({record.pid for record in records.values()}) == len(records)
    assert all(is_serving(service.listen) for service in stack.settings.services().values())


def test_the_shards_of_every_service_lie_on_two_servers_live_and_shadow(stack: Stack) -> None:
    for service in SERVICES:
        shards = stack.settings.service(service).shards
        assert tuple(shards) == SHARDS
        ports = {
            name: {url.split(":")[-1].split("/")[0] for url in (shards[name].live, shards[name].shadow or "")}
            for name in SHARDS
        }
        assert all(len(found) == 1 for found in ports.values())
        assert ports["s0"] != ports["s1"]
        for name in SHARDS:
            databases = [make_url(url).database or "" for url in (shards[name].live, shards[name].shadow or "")]
            assert [database.rsplit("_", 1)[1] for database in databases] == list(MODES)


def test_up_again_starts_nothing_twice(stack: Stack) -> None:
    before = stack.running()
    stack.up()
    assert stack.running() == before


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_was_killed_comes_back_at_its_address(stack: Stack, service: str) -> None:
    before, address = stack.running(), stack.settings.service(service).listen
    stack.kill(service)
    assert not is_serving(address)
    assert stack.running().keys() == before.keys() - {service}
    stack.restart(service)
    assert is_serving(address)
    after = stack.running()
    assert {name for name in after if after[name] != before[name]} == {service}


def test_a_service_that_is_stopped_drains_and_ends_by_itself(stack: Stack) -> None:
    record = stack.running()["recon"]
    stack.stop("recon")
    assert not psutil.pid_exists(record.pid)
    assert "service_stopped" in stack.log("recon").read_text()
    stack.start("recon")


def test_what_does_not_run_cannot_be_killed_and_what_runs_cannot_be_started(stack: Stack) -> None:
    with pytest.raises(ConfigurationError, match="ledger does not run"):
        stack.kill("ledger")
    with pytest.raises(ConfigurationError, match="recon runs already"):
        stack.start("recon")


def test_a_service_that_does_not_start_is_reported_with_its_log(stack: Stack) -> None:
    stack.stop("recon")
    host, _, port = stack.settings.service("recon").listen.rpartition(":")
    with socket.socket() as other:
        other.bind((host, int(port)))
        with pytest.raises(ProcessFailed, match=f"cannot listen on {host}:{port}"):
            stack.start("recon")
    stack.start("recon")


def test_down_stops_exactly_what_up_started_and_a_later_up_finds_its_data(stack: Stack) -> None:
    records = stack.running()
    settings = stack.config.read_text()
    another = Stack(stack.directory, tied=True, buffer_pool_mb=64)  # as another command sees it
    assert set(another.down()) == set(records)
    assert not any(psutil.pid_exists(record.pid) for record in records.values())
    assert another.down() == []
    try:
        another.up()
        assert another.config.read_text() == settings
        assert set(another.running()) == set(records)
    finally:
        another.down()
