"""Maker and checker end to end: recon and pay_core as they run, mutual TLS between all, people known by certificate."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import select

from meshctl.servers import NatsServer
from pay_core.app import build as build_pay
from pay_core.settings import PayCoreSettings
from pay_core.tables import Account, Adjustment
from paykit.clock import SystemClock
from paykit.context import BusinessContext
from paykit.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from paykit.events.bus import Bus, open_bus
from paykit.rpc.calling import MeshChannel
from paykit.rpc.credentials import channel_credentials
from paykit.service import Service
from paykit.settings import BusSettings, CommonSettings, ShardSettings, TimerSettings, TlsSettings
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc
from paymesh.recon.v1 import (
    break_pb2,
    recon_service_pb2,
    recon_service_pb2_grpc,
    repair_pb2,
    repair_service_pb2,
    repair_service_pb2_grpc,
)
from recon.app import build as build_recon
from recon.matching import BreakType, MatchKind
from recon.repair_api import assert_person
from recon.settings import ReconSettings, RepairSettings
from recon.tables import Break
from tests.pay_core.conftest import free_port
from tests.paykit.rpc.certificates import LOOPBACK, Authority
from tests.recon.repair_support import CHECKER, MAKER, OpenBreak
from tests.recon.support import mint
from tests.schema import make_schema

pb = repair_service_pb2


class Mesh:
    """recon and pay_core in one process, each behind its own certificate; and stubs for anybody who has one."""

    def __init__(self, folder: Path, authority: Authority, bus: Bus) -> None:
        self.authority = authority
        self._folder = folder
        self.bus = bus
        self._addresses = {name: f"127.0.0.1:{free_port()}" for name in ("recon", "pay_core", "channel_gateway")}
        self._addresses["trade_core"] = self._addresses["channel_gateway"]  # nobody listens there
        self._channels: list[Any] = []
        self.services: dict[str, Service] = {}

    async def start(self, name: str, **changes: Any) -> Service:
        """Starts one of the two."""
        tls = self.authority.issue(name, name, [LOOPBACK])
        common = CommonSettings(addresses=self._addresses, tls=tls, bus=BusSettings(path=self._folder / "bus"))
        shards = {"s0": ShardSettings(live=f"sqlite+aiosqlite:///{self._folder}/{name}.db")}
        if not (self._folder / f"{name}.db").exists():
            await make_schema(name, shards)
        fields: dict[str, Any] = {
            "listen": self._addresses[name],
            "shards": shards,
            "timers": TimerSettings(interval_s=0.05),
            "drain_grace_s": 2,
        }
        if name == "recon":
            settings = ReconSettings(**fields, repairs=RepairSettings(answer_s=0.2, **changes))
            service = build_recon(settings, common, self.bus, SystemClock())
        else:
            service = build_pay(PayCoreSettings(**fields), common, self.bus, SystemClock())
        await service.start()
        self.services[name] = service
        return service

    async def stop(self, name: str) -> None:
        """Stops one of the two."""
        await self.services.pop(name).stop()

    def channel(self, caller: str, tls: TlsSettings | None = None) -> Any:
        """A connection to recon of somebody with a certificate of that name."""
        tls = tls or self.authority.issue(mint("cer"), caller, [])
        channel = MeshChannel(grpc.aio.secure_channel(self._addresses["recon"], channel_credentials(tls)))
        self._channels.append(channel)
        return channel

    def person(self, caller: str) -> Any:
        """RepairService, as somebody calls it."""
        return repair_service_pb2_grpc.RepairServiceStub(self.channel(caller))

    async def opened(self, amount_minor: int = 500, type_: BreakType = BreakType.MISSING_HERE, **changes: Any) -> Break:
        """A break that recon found."""
        service = self.services["recon"]
        context = BusinessContext(biz_id=mint("biz"), caller="test")
        rules = service.settings.rules()  # type: ignore[attr-defined]
        command = OpenBreak(context, type_, MatchKind.STATEMENT, rules, amount_minor, payment_id="", **changes)
        return await service.store.run(command)

    async def close(self) -> None:
        """Ends the connections and the services."""
        for channel in self._channels:
            await channel.close(1.0)
        for name in list(self.services):
            await self.stop(name)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        bus = open_bus(BusSettings(path=tmp_path / "bus"))
        await bus.start()
        stack.push_async_callback(bus.stop)
        mesh = Mesh(tmp_path, Authority(tmp_path), bus)
        stack.push_async_callback(mesh.close)
        yield mesh


async def until(read: Callable[[], Awaitable[repair_pb2.Repair]], state: str) -> repair_pb2.Repair:
    """The repair once it is in a state; each look is a call, which takes its time."""
    async with asyncio.timeout(20):
        while True:
            repair = await read()
            if repair_pb2.RepairState.Name(repair.state) == f"REPAIR_STATE_{state}":
                return repair


def reading(stub: Any, repair_id: str) -> Callable[[], Awaitable[repair_pb2.Repair]]:
    """Reads one repair."""

    async def read() -> repair_pb2.Repair:
        repair: repair_pb2.Repair = (await stub.GetRepair(pb.GetRepairRequest(repair_id=repair_id))).repair
        return repair

    return read


async def balances(mesh: Mesh) -> dict[str, int]:
    """What pay_core's accounts hold, by kind."""
    found = await mesh.services["pay_core"].store.fetch_everywhere(Account, select(Account.__table__), shadow=False)
    return {row.kind: row.balance_minor for row in found}


async def test_one_proposes_another_approves_and_pay_core_sets_the_books_right(mesh: Mesh) -> None:
    await mesh.start("pay_core")
    await mesh.start("recon")
    broken = await mesh.opened(-700)
    ann, bob = mesh.person(MAKER), mesh.person(CHECKER)
    request = pb.ProposeRepairRequest(request_id="p1", break_id=broken.id, reason="the statement lacks it")
    proposed = (await ann.ProposeRepair(request)).repair
    assert (proposed.proposed_by, proposed.amount.amount_minor) == (MAKER, -700)
    with pytest.raises(PermissionDenied) as refused:
        await ann.ApproveRepair(pb.ApproveRepairRequest(request_id="a1", repair_id=proposed.repair_id, reason="yes"))
    assert refused.value.reason == "SAME_PERSON"
    approval = pb.ApproveRepairRequest(request_id="a1", repair_id=proposed.repair_id, reason="yes")
    approved = (await bob.ApproveRepair(approval)).repair
    assert (approved.decided_by, approved.decision) == (CHECKER, "yes")
    done = await until(reading(bob, proposed.repair_id), "DONE")
    assert done.outcome == repair_pb2.REPAIR_OUTCOME_DONE
    assert await balances(mesh) == {"EXTERNAL": 700, "SUSPENSE": -700}
    (made,) = await mesh.services["pay_core"].store.fetch_everywhere(
        Adjustment, select(Adjustment.__table__), shadow=False
    )
    assert (made.id, made.proposed_by, made.approved_by) == (done.effect_id, MAKER, CHECKER)
    recon = recon_service_pb2_grpc.ReconServiceStub(mesh.channel(MAKER))
    found = await recon.GetBreak(recon_service_pb2.GetBreakRequest(break_id=broken.id))
    closed = getattr(found, "break")
    assert (closed.close_reason, closed.repair_id) == (f"REPAIRED {done.repair_id}", done.repair_id)
    assert list(found.repairs) == [done]
    ops = ops_service_pb2_grpc.OpsServiceStub(mesh.channel(MAKER))
    timeline = await ops.GetTimeline(ops_service_pb2.GetTimelineRequest(id=done.repair_id))
    by = {entry.command: entry.caller for entry in timeline.entries}
    assert (by["ProposeRepair"], by["ApproveRepair"]) == (MAKER, CHECKER)
    assert timeline.biz_id == broken.biz_id
    assert (await bob.ApproveRepair(approval)).repair == approved  # the same request again


async def test_services_and_strangers_neither_propose_nor_approve(mesh: Mesh) -> None:
    await mesh.start("recon", makers=("*@example.org",), checkers=("bob@*",))
    broken = await mesh.opened()
    propose = pb.ProposeRepairRequest(request_id="p1", break_id=broken.id, reason="so it is")
    for caller in ("pay_core", "recon", "rule", "ann@elsewhere.org"):
        with pytest.raises(PermissionDenied) as refused:
            await mesh.person(caller).ProposeRepair(propose)
        assert refused.value.reason == "CALLER_NOT_ALLOWED"
    repair_id = (await mesh.person(MAKER).ProposeRepair(propose)).repair.repair_id
    approve = pb.ApproveRepairRequest(request_id="a1", repair_id=repair_id, reason="yes")
    for caller in ("recon", "eve@example.org"):
        with pytest.raises(PermissionDenied) as refused:
            await mesh.person(caller).ApproveRepair(approve)
        assert refused.value.reason == "CALLER_NOT_ALLOWED"
    with pytest.raises(PermissionDenied):
        await mesh.person("pay_core").RejectRepair(
            pb.RejectRepairRequest(request_id="x1", repair_id=repair_id, reason="no")
        )
    stub = mesh.person("eve@example.org")  # who may look
    assert (await stub.GetRepair(pb.GetRepairRequest(repair_id=repair_id))).repair.state == (
        repair_pb2.REPAIR_STATE_PROPOSED
    )


def test_a_connection_without_a_certificate_is_nobody() -> None:
    for caller in ("insecure", ""):
        with pytest.raises(PermissionDenied) as refused:
            assert_person(caller, ("*",), "approve")
        assert refused.value.reason == "CERTIFICATE_REQUIRED"
    with pytest.raises(PermissionDenied):
        assert_person("rule", ("*",), "approve")
    assert_person(MAKER, ("*@example.org",), "approve")


async def test_what_was_sent_while_the_service_was_away_and_its_event_lost_is_asked_for(
    mesh: Mesh, tmp_path: Path
) -> None:
    """No money depends on the bus: pay_core was never told, and recon asks it until it answers."""
    await mesh.start("recon")
    broken = await mesh.opened(900)
    request = pb.ProposeRepairRequest(request_id="p1", break_id=broken.id, reason="so it is")
    repair_id = (await mesh.person(MAKER).ProposeRepair(request)).repair.repair_id
    bob = mesh.person(CHECKER)
    await bob.ApproveRepair(pb.ApproveRepairRequest(request_id="a1", repair_id=repair_id, reason="yes"))
    await until(reading(bob, repair_id), "SENT")
    lost, mesh.bus = mesh.bus, open_bus(BusSettings(path=tmp_path / "another"))
    await mesh.bus.start()
    try:
        await mesh.start("pay_core")  # on a bus that never had the event, nor takes its answer to recon
        done = await until(reading(bob, repair_id), "DONE")
        assert done.detail.startswith("posted jnl_")
        assert await balances(mesh) == {"EXTERNAL": -900, "SUSPENSE": 900}
        await mesh.stop("pay_core")
    finally:
        await mesh.bus.stop()
        mesh.bus = lost


@pytest.mark.nats
async def test_the_store_of_jetstream_is_deleted_while_repairs_are_out_and_nothing_is_lost_or_done_twice(
    tmp_path: Path, own_nats_server: NatsServer
) -> None:
    bus = open_bus(BusSettings(kind="nats", url=own_nats_server.url))
    await bus.start()
    mesh = Mesh(tmp_path, Authority(tmp_path), bus)
    try:
        await mesh.start("recon")
        ann, bob = mesh.person(MAKER), mesh.person(CHECKER)
        repair_ids = []
        for amount_minor in (300, -100):
            broken = await mesh.opened(amount_minor)
            request = pb.ProposeRepairRequest(request_id="p1", break_id=broken.id, reason="so it is")
            repair_ids.append((await ann.ProposeRepair(request)).repair.repair_id)
            await bob.ApproveRepair(pb.ApproveRepairRequest(request_id="a1", repair_id=repair_ids[-1], reason="yes"))
            await until(reading(bob, repair_ids[-1]), "SENT")
        own_nats_server.stop()
        shutil.rmtree(own_nats_server.directory / "store")
        own_nats_server.start()
        await mesh.start("pay_core")
        for repair_id in repair_ids:
            assert (await until(reading(bob, repair_id), "DONE")).outcome == repair_pb2.REPAIR_OUTCOME_DONE
        assert await balances(mesh) == {"EXTERNAL": -200, "SUSPENSE": 200}
    finally:
        await mesh.close()
        await bus.stop()


async def test_repairs_and_breaks_are_listed_by_what_they_are_page_by_page(mesh: Mesh) -> None:
    await mesh.start("recon")
    ann = mesh.person(MAKER)
    proposed = []
    for number, amount_minor in enumerate((100, 200, 300)):
        broken = await mesh.opened(amount_minor, channel="sandbox_card" if number else "sandbox_bank")
        request = pb.ProposeRepairRequest(request_id="p1", break_id=broken.id, reason="so it is")
        proposed.append((await ann.ProposeRepair(request)).repair)
    await ann.RejectRepair(pb.RejectRepairRequest(request_id="x", repair_id=proposed[0].repair_id, reason="a slip"))
    listed, token = [], ""
    while True:
        listing = pb.ListRepairsRequest(state=repair_pb2.REPAIR_STATE_PROPOSED, page_size=1, page_token=token)
        page = await ann.ListRepairs(listing)
        listed += [repair.repair_id for repair in page.repairs]
        token = page.next_page_token
        if not token:
            break
    assert listed == [proposed[2].repair_id, proposed[1].repair_id]
    of_one = await ann.ListRepairs(pb.ListRepairsRequest(break_id=proposed[0].break_id))
    assert [repair.decision for repair in of_one.repairs] == ["a slip"]
    nothing = await ann.ListRepairs(pb.ListRepairsRequest(kind=repair_pb2.REPAIR_KIND_REFUND))
    assert not nothing.repairs
    recon = recon_service_pb2_grpc.ReconServiceStub(mesh.channel(MAKER))
    listings: list[tuple[dict[str, Any], int]] = [
        ({"type": break_pb2.BREAK_TYPE_MISSING_HERE}, 3),
        ({"type": break_pb2.BREAK_TYPE_LATE}, 0),
        ({"channel": "sandbox_card"}, 2),
        ({"owner": "channel-operations", "currency_code": "EUR"}, 3),
        ({"owner": "payment-operations"}, 0),
        ({"currency_code": "USD"}, 0),
        ({"amount_minor_min": 200, "state": break_pb2.BREAK_STATE_OPEN}, 2),
        ({"older_than": Duration(seconds=3600)}, 0),
        ({"older_than": Duration(nanos=1_000_000)}, 3),
    ]
    for fields, count in listings:
        found = await recon.ListBreaks(recon_service_pb2.ListBreaksRequest(**fields))
        assert len(found.breaks) == count, fields
    first = await recon.ListBreaks(recon_service_pb2.ListBreaksRequest(channel="sandbox_card", page_size=1))
    with pytest.raises(InvalidArgument):  # a token of another list
        await recon.ListBreaks(
            recon_service_pb2.ListBreaksRequest(channel="sandbox_bank", page_token=first.next_page_token)
        )


async def test_bad_requests_are_refused_by_field(mesh: Mesh) -> None:
    await mesh.start("recon")
    ann = mesh.person(MAKER)
    with pytest.raises(InvalidArgument) as refused:
        await ann.ProposeRepair(pb.ProposeRepairRequest(break_id="pay_x", amount_minor=10**16))
    fields = {violation.field for violation in refused.value.violations}
    assert fields == {"request_id", "break_id", "reason", "amount_minor"}
    with pytest.raises(InvalidArgument):
        await ann.ApproveRepair(pb.ApproveRepairRequest(request_id="r", repair_id=mint("brk"), reason="x"))
    with pytest.raises(NotFound):
        await ann.ApproveRepair(pb.ApproveRepairRequest(request_id="r", repair_id=mint("rpr"), reason="x"))
    with pytest.raises(NotFound):
        await ann.GetRepair(pb.GetRepairRequest(repair_id=mint("rpr")))
    with pytest.raises(NotFound):
        await ann.ProposeRepair(pb.ProposeRepairRequest(request_id="r", break_id=mint("brk"), reason="x"))
    with pytest.raises(InvalidArgument):
        await ann.ListRepairs(pb.ListRepairsRequest(page_size=201))
    recon = recon_service_pb2_grpc.ReconServiceStub(mesh.channel(MAKER))
    with pytest.raises(InvalidArgument) as refused:
        await recon.ListBreaks(
            recon_service_pb2.ListBreaksRequest(
                currency_code="XXY", amount_minor_min=-1, older_than=Duration(seconds=-1), owner="a b", channel="/"
            )
        )
    fields = {violation.field for violation in refused.value.violations}
    assert fields == {"currency_code", "amount_minor_min", "older_than", "owner", "channel"}
    broken = await mesh.opened(difference_minor=0)
    with pytest.raises(FailedPrecondition):
        await ann.ProposeRepair(pb.ProposeRepairRequest(request_id="r", break_id=broken.id, reason="x"))
