"""After all that the other tests here did to the system: it comes to rest, every invariant holds, all can be found."""

from __future__ import annotations

from collections import Counter

import pytest

from meshctl import check
from meshctl.closing import close_date
from meshctl.embedded import EmbeddedMesh
from meshctl.processes import free_port
from meshctl.scenarios import Desk
from meshctl.scenarios.desk import MERCHANT, card, from_balance
from meshctl.settings import SERVICES
from meshctl.timeline import gather
from paykit.rpc.channels import Channels
from paymesh.recon.v1 import recon_service_pb2, recon_service_pb2_grpc
from paymesh.trade.v1.trade_pb2 import TRADE_TYPE_PURCHASE


async def test_any_id_of_an_order_leads_to_the_same_timeline(desk: Desk, channels: Channels) -> None:
    ann, shop = desk.name("ann"), desk.name("shop")
    made = await desk.order(TRADE_TYPE_PURCHASE, ann, 700, card("tok_notify_only"), payee_id=shop)
    trade = await desk.finished(made.trade_id)
    await desk.expect_balance(shop, 700, MERCHANT)  # the last thing that happens
    whole = await gather(channels, trade.biz_id)
    ids = [record.id for record in whole.records()]
    assert {id_[:3] for id_ in ids} >= {"trd", "att", "pay", "ins", "jnl", "chn", "ntf"}
    (order,) = await desk.channel_orders_of(trade)
    for id_ in (*ids, order.provider_reference):
        found = await gather(channels, id_)
        assert (id_, found.biz_ids) == (id_, [trade.biz_id])
        assert [record.id for record in found.records()] == ids
    # What recon hears leaves no record of its own, until something is wrong.
    assert {entry.service for entry in whole.entries} == set(SERVICES) - {"recon"}


async def test_a_service_that_cannot_be_asked_is_named_and_the_others_answer(
    desk: Desk, mesh: EmbeddedMesh, channels: Channels
) -> None:
    trade = await desk.top_up(desk.name("ann"), 500)
    addresses = mesh.settings.addresses | {"pay_core": f"127.0.0.1:{free_port()}"}
    without_pay_core = Channels(addresses)
    try:
        partial = await gather(without_pay_core, trade.trade_id)
    finally:
        await without_pay_core.close()
    assert list(partial.unreachable) == ["pay_core"]
    assert partial.unreachable["pay_core"].startswith("UNAVAILABLE")
    whole = await gather(channels, trade.trade_id)
    assert partial.entries == [entry for entry in whole.entries if entry.service != "pay_core"]


async def test_what_is_still_under_way_is_named_where_the_system_does_not_come_to_rest(
    desk: Desk, mesh: EmbeddedMesh
) -> None:
    made = await desk.order(
        TRADE_TYPE_PURCHASE, desk.name("ann"), 700, card("tok_timeout_charged"), payee_id=desk.name("shop")
    )
    with pytest.raises(TimeoutError, match=r"still under way after 1 s: (messages of \w+|\w{3}_\w+)"):
        await mesh.settle(timeout_s=1.0)
    desk.expect_state(await desk.finished(made.trade_id), "PAID")


async def test_the_day_can_be_closed_and_its_trial_balance_sums_to_zero(
    desk: Desk, mesh: EmbeddedMesh, channels: Channels
) -> None:
    ann = desk.name("ann")
    payment = await desk.payment_of(await desk.top_up(ann, 500))
    await mesh.settle()
    balance = await close_date(channels, payment.accounting_date)
    sums: Counter[str] = Counter()
    for line in balance.lines:
        sums[line.currency_code] += line.balance_minor
    assert set(sums.values()) == {0}
    assert all(line.account_count > 0 for line in balance.lines)
    assert balance.closed_book_count > 0
    assert balance.carried_payment_count == 0
    made = await desk.order(TRADE_TYPE_PURCHASE, ann, 500, from_balance(), payee_id=desk.name("shop"))
    later = await desk.payment_of(await desk.finished(made.trade_id))
    assert later.accounting_date > payment.accounting_date


async def test_nothing_is_under_way_and_every_invariant_holds(mesh: EmbeddedMesh) -> None:
    await mesh.settle()
    report = await check.audit(mesh.settings, settled=True)
    assert {line.id: line.found for line in report.lines if line.violation_count} == {}
    assert report.rows > 0
    assert not any(line.skipped for line in report.lines)


async def test_recon_has_matched_what_the_services_said(desk: Desk, mesh: EmbeddedMesh, channels: Channels) -> None:
    ann = desk.name("ann")
    made = await desk.order(TRADE_TYPE_PURCHASE, ann, 700, card(), payee_id=desk.name_far_from(ann, "shop"))
    await desk.finished(made.trade_id)
    await mesh.settle()
    stub = recon_service_pb2_grpc.ReconServiceStub(channels.get("recon"))
    summary = await stub.GetReconSummary(recon_service_pb2.GetReconSummaryRequest())
    assert len(summary.counts) == 4
    assert all(count.matched_count > 0 for count in summary.counts)
    assert [count.broken_count for count in summary.counts] == [0, 0, 0, 0]
    assert summary.open_break_count == 0


@pytest.mark.parametrize("id_", ["biz_00000000000000000000000000", "trd_00000000000000000000000000", "no-such-thing"])
async def test_an_unknown_id_has_no_timeline(id_: str, channels: Channels) -> None:
    timeline = await gather(channels, id_)
    assert timeline.entries == []
    assert timeline.unreachable == {}
