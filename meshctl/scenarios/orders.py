"""Orders that go as everybody hopes."""

from __future__ import annotations

from meshctl.scenarios.desk import MERCHANT, Desk, Scenario, bank, card, from_balance
from paykit.ids import slot_of
from paymesh.trade.v1.trade_pb2 import TRADE_TYPE_CASH_OUT, TRADE_TYPE_PEER_TRANSFER, TRADE_TYPE_PURCHASE


async def top_up_by_card(desk: Desk) -> None:
    """Money comes from a card to a balance."""
    trade = await desk.top_up(desk.name("ann"), 5000)
    await desk.expect_channel_moves(trade, ("CHARGE", 5000))


async def purchase_by_card(desk: Desk) -> None:
    """A merchant is paid by card."""
    shop = desk.name("shop")
    made = await desk.order(TRADE_TYPE_PURCHASE, desk.name("ann"), 2599, card(), payee_id=shop)
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("CHARGE", 2599))
    await desk.expect_balance(shop, 2599, MERCHANT)


async def purchase_by_balance(desk: Desk) -> None:
    """A merchant is paid from a balance: the call that orders answers PAID."""
    ann, shop = desk.name("ann"), desk.name("shop")
    await desk.top_up(ann, 5000)
    trade = await desk.order(TRADE_TYPE_PURCHASE, ann, 1250, from_balance(), payee_id=shop)
    desk.expect_state(trade, "PAID")
    await desk.expect_balance(ann, 3750)
    await desk.expect_balance(shop, 1250, MERCHANT)


async def purchase_by_balance_and_card(desk: Desk) -> None:
    """A balance pays what it has, a card the rest."""
    ann, shop = desk.name("ann"), desk.name("shop")
    await desk.top_up(ann, 1000)
    made = await desk.order(TRADE_TYPE_PURCHASE, ann, 3000, from_balance(1000), card(), payee_id=shop)
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("CHARGE", 2000))
    await desk.expect_balance(ann, 0)
    await desk.expect_balance(shop, 3000, MERCHANT)


async def peer_transfer_on_one_slot(desk: Desk) -> None:
    """One user pays another; both live on one slot, so one journal does it."""
    ann = desk.name("ann")
    bob = desk.name_beside(ann, "bob")
    await desk.top_up(ann, 5000)
    trade = await desk.order(TRADE_TYPE_PEER_TRANSFER, ann, 1500, from_balance(), payee_id=bob)
    desk.expect_state(trade, "PAID")
    await desk.expect_balance(ann, 3500)
    await desk.expect_balance(bob, 1500)


async def peer_transfer_across_slots(desk: Desk) -> None:
    """One user pays another on another shard: two journals, joined by an in-transit account."""
    ann = desk.name("ann")
    bob = desk.name_far_from(ann, "bob")
    desk.require(slot_of(ann) != slot_of(bob), "ann and bob live on one slot")
    await desk.top_up(ann, 5000)
    trade = await desk.order(TRADE_TYPE_PEER_TRANSFER, ann, 1500, from_balance(), payee_id=bob)
    desk.expect_state(trade, "PAID")
    await desk.expect_balance(ann, 3500)
    await desk.expect_balance(bob, 1500)


async def cash_out_to_bank(desk: Desk) -> None:
    """Money leaves a balance for a bank account."""
    ann = desk.name("ann")
    await desk.top_up(ann, 5000)
    made = await desk.order(TRADE_TYPE_CASH_OUT, ann, 4200, bank())
    trade = await desk.finished(made.trade_id)
    desk.expect_state(trade, "PAID")
    await desk.expect_channel_moves(trade, ("PAYOUT", 4200))
    await desk.expect_balance(ann, 800)


SCENARIOS = (
    Scenario("top_up_by_card", "Top-up by card", top_up_by_card),
    Scenario("purchase_by_card", "Purchase by card", purchase_by_card),
    Scenario("purchase_by_balance", "Purchase by balance, paid within the call", purchase_by_balance),
    Scenario("purchase_by_balance_and_card", "Purchase by balance and card", purchase_by_balance_and_card),
    Scenario("peer_transfer_on_one_slot", "Peer transfer on one slot", peer_transfer_on_one_slot),
    Scenario("peer_transfer_across_slots", "Peer transfer across two slots", peer_transfer_across_slots),
    Scenario("cash_out_to_bank", "Cash-out to a bank", cash_out_to_bank),
)
