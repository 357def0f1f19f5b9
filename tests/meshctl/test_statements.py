"""``meshctl recon``: a file goes in with its progress, what is wrong with it is shown, and days are reported."""

from __future__ import annotations

import asyncio
import contextlib
import csv
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshctl import recon as commands
from meshctl import reports, statements
from meshctl.layout import write_configuration
from meshctl.processes import free_ports
from meshctl.settings import load_mesh
from meshctl.statements import What
from paykit.clock import SystemClock
from paykit.errors import ConfigurationError, FailedPrecondition
from paykit.events.bus import open_bus
from paykit.rpc.server import Server
from paykit.settings import BusSettings
from paymesh.channel.v1 import channel_service_pb2, channel_service_pb2_grpc
from recon.app import build
from tests.recon.statements import support
from tests.recon.statements.support import CHANNEL, DAY, csv_file, of_order, order, plant, row
from tests.schema import make_schema


class Gateway(channel_service_pb2_grpc.ChannelServiceServicer):
    """Hands one file over, of any channel but one."""

    def __init__(self) -> None:
        self.data = b""

    async def FetchStatement(
        self, request: channel_service_pb2.FetchStatementRequest, servicer: Any
    ) -> AsyncIterator[channel_service_pb2.FetchStatementResponse]:
        if request.channel != CHANNEL:
            raise FailedPrecondition("no such channel is configured", reason="CHANNEL_UNKNOWN")
        yield channel_service_pb2.FetchStatementResponse(format="csv")
        for start in range(0, len(self.data), 50):
            yield channel_service_pb2.FetchStatementResponse(format="csv", chunk=self.data[start : start + 50])


class Desk:
    """A recon that runs, the gateway beside it, and the settings file of both."""

    def __init__(self, config: Path, store: Any, gateway: Gateway) -> None:
        self.config, self.store, self.gateway = config, store, gateway

    async def import_(self, data: bytes, **changes: Any) -> int:
        file = self.config.parent / "file.csv"
        file.write_bytes(data)
        what = What(**({"channel": CHANNEL, "day": DAY} | changes))
        return await asyncio.to_thread(statements.import_file, self.config, file, what)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    recon_port, gateway_port = free_ports([0, 0])
    addresses = dict.fromkeys(("trade_core", "pay_core"), "127.0.0.1:1")
    addresses |= {"recon": f"127.0.0.1:{recon_port}", "channel_gateway": f"127.0.0.1:{gateway_port}"}
    declared = support.statements(spool_path=str(tmp_path)).model_dump(mode="json", exclude_none=True)
    config = tmp_path / "paymesh.toml"
    shards = {name: {"live": f"sqlite+aiosqlite:///{tmp_path}/{name}.db"} for name in ("s0", "s1")}
    section = {"listen": addresses["recon"], "shards": shards, "statements": declared}
    write_configuration(config, {"addresses": addresses, "recon": section})
    settings = load_mesh(config)
    assert settings.recon is not None
    await make_schema("recon", settings.recon.shards)
    bus = open_bus(BusSettings(path=tmp_path / "bus"))
    async with contextlib.AsyncExitStack() as running:
        await bus.start()
        running.push_async_callback(bus.stop)
        gateway = Gateway()  # type: ignore[abstract]
        server = Server(addresses["channel_gateway"])
        server.add(channel_service_pb2_grpc.add_ChannelServiceServicer_to_server, gateway)
        await server.start()
        running.push_async_callback(server.stop, 1.0)
        service = build(settings.recon, settings, bus, SystemClock())
        await service.start()
        running.push_async_callback(service.stop)
        yield Desk(config, service.store, gateway)


async def test_a_file_is_imported_and_what_it_came_to_is_shown(
    desk: Desk, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    orders = [order(slot) for slot in (1, 900)]
    await plant(desk.store, orders)
    data = csv_file([of_order(orders[0], "1"), of_order(orders[1], "2", 700), row("FEE", "3", "-0.30")])
    assert await desk.import_(data) == 0
    shown = capsys.readouterr().out
    assert "3 lines, 0 known before; 1 breaks opened" in shown
    assert "AMOUNT_MISMATCH" in shown
    assert "-0.30 EUR" in shown
    assert await desk.import_(data) == 0
    assert "(imported before)" in capsys.readouterr().out

    written = tmp_path / "report.csv", tmp_path / "report.html"
    wanted = reports.Wanted(DAY, DAY, channel=CHANNEL)
    assert await asyncio.to_thread(reports.run, desk.config, wanted, *written) == 0
    assert CHANNEL in capsys.readouterr().out
    with written[0].open(newline="") as file:
        found = {(line["section"], line["difference"]): line["number"] for line in csv.DictReader(file)}
    assert found["ORDERS", "AGREED"] == found["ORDERS", "BROKEN"] == found["LINES", "AMOUNT_MISMATCH"] == "1"
    assert "Reconciliation of 2026-11-29, sandbox_card" in written[1].read_text()


async def test_a_refused_file_says_where_it_is_wrong(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert await desk.import_(csv_file([row("CHARGE", "1", "1.00"), row("CHARGE", "2", "much")])) == 1
    shown = capsys.readouterr().out
    assert "STATEMENT_INVALID" in shown
    assert "line 3: an amount is not a decimal number" in shown
    assert await desk.import_(b"", format="telex") == 1
    assert "unknown format" in capsys.readouterr().out
    assert await desk.import_(csv_file([]), replaces=f"stm_{order(1).id[4:]}") == 1
    assert "NOT_FOUND" in capsys.readouterr().out


async def test_what_the_provider_hands_over_is_imported(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    one = order(3)
    await plant(desk.store, [one])
    desk.gateway.data = csv_file([of_order(one, "1")])
    assert await asyncio.to_thread(statements.fetch, desk.config, What(CHANNEL, DAY)) == 0
    assert "1 lines" in capsys.readouterr().out
    assert await asyncio.to_thread(statements.fetch, desk.config, What("other", DAY)) == 1
    assert "CHANNEL_UNKNOWN" in capsys.readouterr().out


def test_a_day_that_is_none_is_named() -> None:
    with pytest.raises(ConfigurationError, match="--date"):
        commands._day("2026-11-31")
