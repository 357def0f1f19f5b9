"""Records that ended: digests and pages of them, the same on every backend, and what may be asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import ColumnElement, MetaData, Select, insert, select
from sqlalchemy.ext.asyncio import create_async_engine

from paykit import records
from paykit.clock import SystemClock
from paykit.context import mint, use
from paykit.errors import InvalidArgument
from paykit.ids import new_id
from paykit.record_api import RecordApi
from paykit.records import Digest, Ended, Range, RecordKind, RecordSource, Told
from paykit.rpc.channels import Channels
from paykit.rpc.server import Server
from paykit.settings import ExecutorSettings, ShardSettings
from paykit.store import system
from paykit.store.row import Code, Id, Millis, Minor, Row, mapped
from paykit.store.store import Store
from paykit.store.system import ShardEpoch
from paymesh.ops.v1 import record_service_pb2 as pb
from paymesh.ops.v1 import record_service_pb2_grpc
from tests.conftest import MakeShards

metadata = MetaData()
T0 = 1_700_000_000_000
SLOTS = (0, 511, 512, 1023)


@mapped(metadata, "thing", index=[("finished_at_ms",)])
class Thing(Row, frozen=True, kw_only=True):
    """What ends."""

    state: Code
    amount_minor: Minor
    currency: Code
    payment_id: Id
    finished_at_ms: Millis | None


_thing = Thing.__table__.c


def things(where: ColumnElement[bool]) -> Select[Any]:
    at_ms = _thing.finished_at_ms.label("at_ms")
    columns = (_thing.id, _thing.slot, at_ms, _thing.state, _thing.amount_minor, _thing.currency, _thing.payment_id)
    return select(*columns).where(where)


async def tell(store: Store, ids: Sequence[str], shadow: bool) -> dict[str, Told]:
    return {id_: Told("biz_x", "thing.ended", id_.encode()) for id_ in ids}


SOURCE = RecordSource(
    RecordKind.ORDER,
    "thg",
    lambda start_ms, end_ms: things((_thing.finished_at_ms >= start_ms) & (_thing.finished_at_ms < end_ms)),
    lambda ids: things(_thing.id.in_(ids)),
    tell,
)


def thing(number: int, slot: int, at_ms: int | None) -> Thing:
    return Thing(
        id=new_id("thg", slot, T0 + number),
        slot=slot,
        state="SUCCEEDED" if at_ms else "PENDING",
        amount_minor=100 + number,
        currency="EUR",
        payment_id=new_id("pay", slot, T0),
        finished_at_ms=at_ms,
    )


THINGS = [thing(number, SLOTS[number % 4], T0 + 10 * number) for number in range(20)] + [thing(99, 0, None)]


async def _fill(shards: dict[str, ShardSettings]) -> None:
    stores = Store("things", shards, 1, SystemClock(), ExecutorSettings())
    for name, shard in shards.items():
        engine = create_async_engine(shard.live)
        async with engine.begin() as connection:
            await connection.run_sync(system.metadata.create_all)
            await connection.run_sync(metadata.create_all)
            identity = {"id": "epoch", "slot": 0, "version": 1, "epoch": 1, "service": "things", "shard": name}
            await connection.execute(insert(ShardEpoch.__table__), {**identity, "mode": "live"})
            here = [row for row in THINGS if stores.map.shard_of(row.slot) == name]
            values = [{column: getattr(row, column) for column in Thing.__columns__} for row in here]
            await connection.execute(insert(Thing.__table__), values)
        await engine.dispose()


@pytest.fixture
async def store(make_shards: MakeShards) -> AsyncIterator[Store]:
    shards = make_shards(2, ("live",))
    await _fill(shards)
    opened = Store("things", shards, 1, SystemClock(), ExecutorSettings())
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
async def stub(store: Store) -> AsyncIterator[Any]:
    server = Server("127.0.0.1:0")
    server.add(record_service_pb2_grpc.add_RecordServiceServicer_to_server, RecordApi(store, [SOURCE]))
    channels = Channels({"things": f"127.0.0.1:{await server.start()}"})
    with use(mint(0, T0, caller="test")):
        yield record_service_pb2_grpc.RecordServiceStub(channels.get("things"))
    await channels.close(1.0)
    await server.stop(1.0)


def ended(start_ms: int, end_ms: int) -> list[Ended]:
    """What ended then, from the rows themselves."""
    return [
        Ended(row.id, row.slot, row.finished_at_ms, row.state, row.amount_minor, row.currency, row.payment_id)
        for row in THINGS
        if row.finished_at_ms is not None and start_ms <= row.finished_at_ms < end_ms
    ]


@pytest.mark.parametrize(("start_ms", "end_ms"), [(T0, T0 + 200), (T0 + 10, T0 + 11), (T0 + 500, T0 + 600)])
async def test_digests_are_the_same_wherever_they_are_made(store: Store, start_ms: int, end_ms: int) -> None:
    found = await records.digests(store, SOURCE, "live", start_ms, end_ms)
    assert found == records.digest_of(ended(start_ms, end_ms))


@given(hashes=st.lists(st.integers(-(2**63), 2**63 - 1)), amounts=st.data())
def test_digests_depend_on_no_order_and_fit_their_message(hashes: list[int], amounts: st.DataObject) -> None:
    digest = Digest()
    for hash_ in hashes:
        digest = digest.plus(1, hash_)
    again = Digest()
    for hash_ in amounts.draw(st.permutations(hashes)):
        again = again.plus(1, hash_)
    assert digest == again
    assert records.signed(pb.Digest(hash_xor=records.unsigned(digest.hash_xor)).hash_xor) == digest.hash_xor


def test_a_hash_tells_every_part_apart() -> None:
    hashes = {
        records.hash64("a", "DONE", 1, "EUR"),
        records.hash64("b", "DONE", 1, "EUR"),
        records.hash64("a", "FAILED", 1, "EUR"),
        records.hash64("a", "DONE", 2, "EUR"),
        records.hash64("a", "DONE", 1, "USD"),
    }
    assert len(hashes) == 5


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_pages_have_every_record_of_the_slots_once_in_order(store: Store, limit: int) -> None:
    wanted, listed = Range(T0, T0 + 200, (0, 1023)), list[Ended]()
    while page := await records.page(store, SOURCE, "live", wanted, limit):
        listed += page
        wanted = wanted._replace(after=(page[-1].at_ms or 0, page[-1].id))
    assert listed == [record for record in ended(T0, T0 + 200) if record.slot in (0, 1023)]


def between(start_ms: int, end_ms: int) -> dict[str, Any]:
    message = pb.GetDigestsRequest()
    message.start_time.FromMilliseconds(start_ms)
    message.end_time.FromMilliseconds(end_ms)
    return {"kind": pb.RECORD_KIND_ORDER, "start_time": message.start_time, "end_time": message.end_time}


async def test_the_service_answers_with_digests_pages_and_events(
    stub: Any,
) -> None:
    answer = await stub.GetDigests(pb.GetDigestsRequest(**between(T0, T0 + 200)))
    assert {digest.slot: digest.record_count for digest in answer.digests} == dict.fromkeys(SLOTS, 5)
    request = pb.ListRecordsRequest(**between(T0, T0 + 200), slots=[0], page_size=2)
    ids: list[str] = []
    while True:
        page = await stub.ListRecords(request)
        ids += [record.record_id for record in page.records]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert ids == [record.id for record in ended(T0, T0 + 200) if record.slot == 0]
    open_id = THINGS[-1].id
    named = await stub.GetRecords(
        pb.GetRecordsRequest(kind=pb.RECORD_KIND_ORDER, record_ids=[ids[0], open_id, new_id("thg", 3, T0)])
    )
    found = {record.record_id: record for record in named.records}
    assert found.keys() == {ids[0], open_id}
    assert (found[ids[0]].event_subject, found[ids[0]].event_body) == ("thing.ended", ids[0].encode())
    assert found[ids[0]].biz_id == "biz_x"
    assert (found[open_id].state, found[open_id].HasField("finish_time")) == ("PENDING", False)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": pb.RECORD_KIND_UNSPECIFIED}, "kind"),
        ({"kind": pb.RECORD_KIND_PAYMENT}, "kind"),
        (between(T0, T0), "end_time"),
        (between(T0, T0 + 86_400_001), "end_time"),
        ({"slots": []}, "slots"),
        ({"slots": list(range(65))}, "slots"),
        ({"slots": [1024]}, "slots"),
        ({"page_size": 201}, "page_size"),
        ({"page_token": "x"}, "page_token"),
    ],
)
async def test_what_may_not_be_asked_is_refused_by_field(stub: Any, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await stub.ListRecords(pb.ListRecordsRequest(**{**between(T0, T0 + 200), "slots": [0], **change}))
    assert {violation.field for violation in refused.value.violations} == {field}


@pytest.mark.parametrize(
    "ids", [[], ["nonsense"], [new_id("pay", 0, T0)], [new_id("thg", 0, T0 + n) for n in range(101)]]
)
async def test_ids_are_of_the_kind_and_bounded(stub: Any, ids: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        await stub.GetRecords(pb.GetRecordsRequest(kind=pb.RECORD_KIND_ORDER, record_ids=ids))
