"""StatementService as it is served: streams both ways, lists, and refusals with their lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from paykit.clock import SystemClock
from paykit.errors import InvalidArgument, NotFound
from paykit.events.bus import open_bus
from paykit.rpc.channels import Channels
from paykit.service import Service
from paykit.settings import BusSettings, CommonSettings, ShardSettings
from paymesh.recon.v1 import statement_pb2, statement_service_pb2, statement_service_pb2_grpc
from recon.app import build
from recon.settings import ReconSettings
from tests.recon.statements.support import CHANNEL, DAY, csv_file, of_order, order, plant, row, statements
from tests.schema import make_schema

Request = statement_service_pb2.ImportStatementRequest
Header = statement_service_pb2.ImportStatementHeader


class Api:
    """A running recon and a stub to it."""

    def __init__(self, service: Service, channels: Channels) -> None:
        self.service = service
        self.stub = statement_service_pb2_grpc.StatementServiceStub(channels.get("recon"))

    async def send(self, data: bytes, **changes: Any) -> statement_service_pb2.ImportStatementResponse:
        """Imports a file in pieces; the last answer."""
        header = Header(**({"channel": CHANNEL, "business_date": DAY, "file_name": "a.csv"} | changes))

        async def parts() -> AsyncIterator[Request]:
            yield Request(header=header)
            for start in range(0, len(data), 100):
                yield Request(chunk=data[start : start + 100])

        return await self.last(parts())

    async def last(self, parts: AsyncIterator[Request]) -> statement_service_pb2.ImportStatementResponse:
        """The last answer to these parts."""
        return [answer async for answer in self.stub.ImportStatement(parts)][-1]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    shards = {name: ShardSettings(live=f"sqlite+aiosqlite:///{tmp_path}/{name}.db") for name in ("s0", "s1")}
    settings = ReconSettings(listen="127.0.0.1:0", shards=shards, statements=statements(spool_path=tmp_path))
    await make_schema("recon", shards)
    bus = open_bus(BusSettings(path=tmp_path / "bus"))
    await bus.start()
    addresses = dict.fromkeys(("trade_core", "pay_core", "channel_gateway"), "127.0.0.1:1")  # nobody is asked
    service = build(settings, CommonSettings(addresses=addresses), bus, SystemClock())
    await service.start()
    channels = Channels({"recon": f"127.0.0.1:{service.port}"})
    try:
        yield Api(service, channels)
    finally:
        await channels.close(1.0)
        await bus.stop()
        await service.stop()


async def test_a_file_is_sent_in_pieces_and_shown_with_its_lines_totals_and_balances(api: Api) -> None:
    orders = [order(slot) for slot in (3, 700, 900)]
    await plant(api.service.store, orders)
    amounts = [1_000, 1_000, 500]
    rows = [of_order(one, f"L{number}", amounts[number]) for number, one in enumerate(orders)]
    fee, opening, closing = row("FEE", "F", "-0.50"), row("OPENING", "", "5.00"), row("CLOSING", "", "29.50")
    done = await api.send(csv_file([opening, *rows, fee, closing]), request_id="r-1")
    assert done.phase == statement_service_pb2.IMPORT_PHASE_DONE
    assert (done.read_line_count, done.matched_line_count, done.opened_break_count) == (4, 3, 1)
    got = await api.stub.GetStatement(
        statement_service_pb2.GetStatementRequest(statement_id=done.statement.statement_id)
    )
    assert got.statement == done.statement
    totals = {(one.kind, one.difference): (one.line_count, one.amount_minor) for one in got.statement.totals}
    assert totals == {
        (statement_pb2.STATEMENT_LINE_KIND_MOVEMENT, 0): (2, 2_000),
        (statement_pb2.STATEMENT_LINE_KIND_MOVEMENT, 3): (1, 500),
        (statement_pb2.STATEMENT_LINE_KIND_FEE, 0): (1, -50),
    }
    (balance,) = got.statement.balances
    assert (balance.account, balance.opening_minor, balance.closing_minor) == (CHANNEL, 500, 2_950)
    assert balance.continuity == statement_pb2.CONTINUITY_FIRST

    asked = statement_service_pb2.ListStatementLinesRequest(statement_id=done.statement.statement_id, page_size=3)
    first = await api.stub.ListStatementLines(asked)
    asked.page_token = first.next_page_token
    second = await api.stub.ListStatementLines(asked)
    assert (len(first.lines), len(second.lines), second.next_page_token) == (3, 1, "")
    outcomes = {line.provider_line_id: line.outcome for line in (*first.lines, *second.lines)}
    assert outcomes == {
        "L0": statement_pb2.STATEMENT_LINE_OUTCOME_AGREED,
        "L1": statement_pb2.STATEMENT_LINE_OUTCOME_AGREED,
        "L2": statement_pb2.STATEMENT_LINE_OUTCOME_DIFFERS,
        "F": statement_pb2.STATEMENT_LINE_OUTCOME_COUNTED,
    }
    asked = statement_service_pb2.ListStatementLinesRequest(
        statement_id=done.statement.statement_id, only_differing=True
    )
    (differing,) = (await api.stub.ListStatementLines(asked)).lines
    assert (differing.channel_order_id, differing.line_no) == (orders[2].id, 5)
    listed = await api.stub.ListStatements(statement_service_pb2.ListStatementsRequest(channel=CHANNEL))
    assert [one.statement_id for one in listed.statements] == [done.statement.statement_id]
    again = await api.send(csv_file([opening, *rows, fee, closing]), request_id="r-1")
    assert (again.was_known, again.statement.statement_id) == (True, done.statement.statement_id)


async def test_balances_that_do_not_follow_each_other_are_told(api: Api) -> None:
    async def day(number: int, opening: str, closing: str) -> statement_pb2.StatementBalance:
        rows = [
            row("OPENING", "", opening, day=f"2026-11-{number}"),
            row("FEE", f"F{number}", "-1.00", day=f"2026-11-{number}"),
        ]
        data = csv_file([*rows, row("CLOSING", "", closing, day=f"2026-11-{number}")])
        return (await api.send(data, business_date=f"2026-11-{number}")).statement.balances[0]

    assert (await day(20, "5.00", "4.00")).continuity == statement_pb2.CONTINUITY_FIRST
    assert (await day(21, "4.00", "3.00")).continuity == statement_pb2.CONTINUITY_CONTINUOUS
    gap = await day(23, "9.00", "8.00")
    assert (gap.continuity, gap.gap_minor) == (statement_pb2.CONTINUITY_GAP, 600)
    assert (await day(22, "3.00", "2.00")).continuity == statement_pb2.CONTINUITY_CONTINUOUS
    assert (await day(22, "7.00", "6.00")).continuity == statement_pb2.CONTINUITY_OVERLAP


async def test_what_is_not_an_import_is_refused(api: Api) -> None:
    async def parts(*some: Request) -> AsyncIterator[Request]:
        for one in some:
            yield one

    header = Request(header=Header(channel=CHANNEL, business_date=DAY))
    with pytest.raises(InvalidArgument):
        await api.last(parts())
    with pytest.raises(InvalidArgument):
        await api.last(parts(Request(chunk=b"x")))
    with pytest.raises(InvalidArgument):
        await api.last(parts(header, header))
    wrong = Header(channel="No!", business_date="2026-11-31", sha256="z", size_bytes=-1)
    with pytest.raises(InvalidArgument) as caught:
        await api.last(parts(Request(header=wrong)))
    assert [violation.field for violation in caught.value.violations] == [
        "header.channel",
        "header.business_date",
        "header.size_bytes",
        "header.sha256",
    ]
    with pytest.raises(InvalidArgument) as caught:
        await api.send(csv_file([row("CHARGE", "1", "x"), row("CHARGE", "2", "y")]))
    assert caught.value.reason == "STATEMENT_INVALID"
    assert [violation.field for violation in caught.value.violations] == ["line 2", "line 3"]
    with pytest.raises(NotFound):
        await api.stub.GetStatement(statement_service_pb2.GetStatementRequest(statement_id=f"stm_{order(1).id[4:]}"))
    assert not (await api.stub.ListStatements(statement_service_pb2.ListStatementsRequest())).statements


async def test_a_client_that_goes_away_leaves_nothing(api: Api) -> None:
    async def parts() -> AsyncIterator[Request]:
        yield Request(header=Header(channel=CHANNEL, business_date=DAY))
        yield Request(chunk=csv_file([row("CHARGE", "1", "1.00")]))
        await asyncio.Event().wait()

    async def send() -> None:
        await api.last(parts())

    sending = asyncio.create_task(send())
    done, _ = await asyncio.wait({sending}, timeout=0.5)
    assert not done
    sending.cancel()
    await asyncio.wait({sending})
    assert not (await api.stub.ListStatements(statement_service_pb2.ListStatementsRequest())).statements
    assert (await api.send(csv_file([row("CHARGE", "1", "1.00")]))).statement.line_count == 1
