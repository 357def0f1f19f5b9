"""What happens in the small system: every kind of order, on one slot and across two, and what is never answered."""

from __future__ import annotations

import msgspec
from sqlalchemy import select

from channel_gateway.messages import channel_order
from channel_gateway.overrides import OverrideMode
from channel_gateway.tables import ChannelOrder
from paykit import context as business
from paymesh.event.v1 import events_pb2
from recon import consumers as recon_consumers
from tests.meshctl.invariants.leaving import charge_twice
from tests.meshctl.invariants.mending import mend
from tests.meshctl.invariants.reading import read_statement
from tests.meshctl.invariants.small_world import ALICE, BOB, CAROL, ELSEWHERE, LATE, SHOP, SILENT, SmallWorld
from tests.meshctl.invariants.straying import go_astray
from trade_core.parts import PartInput
from trade_core.trade import PayMethod
from trade_core.types import Tool, TradeType


def card(token: str = "tok_ok_visa", amount_minor: int | None = None) -> PayMethod:
    """A card; of the order's currency where it pays a part."""
    return PayMethod(Tool.CARD, token, amount_minor, "" if amount_minor is None else "EUR")


def balance(amount_minor: int | None = None) -> PayMethod:
    """The buyer's balance."""
    return PayMethod(Tool.BALANCE, "", amount_minor, "" if amount_minor is None else "EUR")


def wallet(token: str) -> PayMethod:
    """A wallet, whose customer does as the token says."""
    return PayMethod(Tool.WALLET, token)


async def fill(world: SmallWorld) -> None:
    """Every kind of order, carried to its end; one in shadow. Then the day is closed."""
    await world.order(TradeType.TOP_UP, ALICE, 5_000, card())
    await world.order(TradeType.PURCHASE, ALICE, 1_000, balance())
    mixed = await world.order(TradeType.PURCHASE, ALICE, 1_500, balance(500), card(amount_minor=1_000))
    await world.order(TradeType.PURCHASE, ALICE, 700, balance(200), card("tok_declined", 500))
    await world.order(TradeType.PEER_TRANSFER, ALICE, 300, balance())
    await world.order(TradeType.CASH_OUT, ALICE, 400, PayMethod(Tool.BANK, "tok_ok_bank"))
    await world.refund(mixed, 600)
    await world.order(TradeType.PURCHASE, ALICE, 900, card(), shadow=True)
    await world.order(TradeType.PURCHASE, ALICE, 450, card(ELSEWHERE), scene="two-acquirers")
    await charge_twice(world)
    await mend(world)
    await world.order(TradeType.PURCHASE, BOB, 450, card(SILENT))
    await go_astray(world)
    await hold(world)
    await divide(world)
    await surprise(world)
    for channel, mode in (("sandbox_card", OverrideMode.FORCED_CLOSED), ("sandbox_bank", OverrideMode.FORCED_OPEN)):
        await world.force(channel, mode)
    await world.force("sandbox_card", OverrideMode.NONE)
    await read_statement(world)
    await world.close_date()


async def hold(world: SmallWorld) -> None:
    """Money that is reserved or in escrow: one order of each is captured in part, one is still held."""
    await world.order(TradeType.TOP_UP, CAROL, 5_000, card())
    for captured in (True, False):
        reserved = await world.order(TradeType.PRE_AUTHORIZATION, CAROL, 800, balance(300), card(amount_minor=500))
        coupon = PayMethod(Tool.COUPON, await world.issue_coupon(CAROL, 100, SHOP), 100, "EUR")
        escrowed = await world.order(TradeType.ESCROW, CAROL, 900, coupon, balance())
        if captured:
            await world.capture(reserved.trade, 480)
            await world.capture(escrowed.trade, 450)


async def divide(world: SmallWorld) -> None:
    """Orders with parts, and one that three tools pay; a merged payment that nobody has paid yet."""
    halves = [PartInput(amount_minor=250, currency="EUR", payee_id=payee) for payee in (SHOP, BOB)]
    await world.order(TradeType.SPLIT_PURCHASE, CAROL, 500, card(), parts=halves)
    whole = await world.order(TradeType.PURCHASE, CAROL, 600)
    await world.pay(whole.trade, balance(200), is_partial=True)
    await world.pay(whole.trade, card(amount_minor=400), is_partial=True)
    merged = [(await world.order(TradeType.PURCHASE, CAROL, 150)).trade.id for _ in range(2)]
    await world.order(TradeType.MERGED_PAYMENT, CAROL, 300, merges=merged)
    await world.grant_points(CAROL, 500)
    coupon = PayMethod(Tool.COUPON, await world.issue_coupon(CAROL, 70), 70, "EUR")
    points = PayMethod(Tool.POINTS, "", 130, "EUR")
    await world.refund(await world.order(TradeType.PURCHASE, CAROL, 400, coupon, points, card(amount_minor=200)), 100)


async def surprise(world: SmallWorld) -> None:
    """A wallet that pays what another has paid already, and one that pays too much: that waits in a case."""
    twice = await world.order(TradeType.PURCHASE, CAROL, 350, wallet(LATE))
    await world.pay(twice.trade, wallet("tok_ok"))
    await world.confirm_late()
    await world.order(TradeType.PURCHASE, CAROL, 650, wallet("tok_pays_more"))


async def begin(world: SmallWorld) -> None:
    """A purchase whose charge is not answered."""
    await world.order(TradeType.PURCHASE, ALICE, 800, card(SILENT))


async def contradict(world: SmallWorld) -> None:
    """The provider contradicts itself about the charge that is not answered: recon opens a break."""
    table = ChannelOrder.__table__
    statement = select(table).where(table.c.state == "UNKNOWN")
    (order,) = await world.stores["channel_gateway"].fetch_everywhere(ChannelOrder, statement, shadow=False)
    context = msgspec.structs.replace(business.unpack(order.context), caller="consumer:matcher")
    said = "said SUCCEEDED, then FAILED"
    event = events_pb2.ChannelMismatchEvent(channel_order=channel_order(order), evidence=said)
    body = event.SerializeToString()
    consumer = world.listeners["recon"]
    command = consumer.to_command(context, "msg-of-the-test", recon_consumers.MISMATCH_FOUND, body)
    assert command is not None
    await world.stores["recon"].run(command)
    await world.carry()
