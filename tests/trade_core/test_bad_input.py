"""Whatever is wrong with a request is answered with its status, reason and field, and nothing is written."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, NamedTuple

import grpc
import pytest

from paykit.errors import InvalidArgument, MeshError
from paykit.ids import new_id
from paykit.rpc.errors import from_rpc_error
from paymesh.common.v1.money_pb2 import Money
from paymesh.trade.v1 import trade_pb2
from paymesh.trade.v1 import trade_service_pb2 as pb
from tests.paykit.events.waits import until
from tests.trade_core.running import BALANCE, CARD, Running, eur, purchase
from tests.trade_core.support import BUYER, NOW_MS, SLOT, fresh

INT64_MAX = 2**63 - 1
TRADE_ID = new_id("trd", SLOT, NOW_MS)
PAYMENT_ID = new_id("pay", SLOT, NOW_MS)


class Bad(NamedTuple):
    """A request that must be refused, and the fields that must be named."""

    method: str
    request: Any
    fields: list[str]


def card(token: str, **changes: Any) -> trade_pb2.PayMethod:
    """A payment by card."""
    return trade_pb2.PayMethod(card=trade_pb2.CardTool(card_token=token), **changes)


def line(**changes: Any) -> trade_pb2.TradeLine:
    """A line of 10.00 EUR."""
    fields: dict[str, Any] = {"sku": "tea", "title": "Tea", "quantity": 1, "unit_price": eur(1000)}
    return trade_pb2.TradeLine(**(fields | changes))


def creating(fields: list[str], **changes: Any) -> Bad:
    """CreateTrade with something wrong."""
    return Bad("CreateTrade", purchase(**changes), fields)


def paying(fields: list[str], **changes: Any) -> Bad:
    """PayTrade with something wrong."""
    given: dict[str, Any] = {"request_id": fresh(), "trade_id": TRADE_ID, "pay_methods": [CARD]}
    return Bad("PayTrade", pb.PayTradeRequest(**(given | changes)), fields)


def refunding(fields: list[str], **changes: Any) -> Bad:
    """RefundTrade with something wrong."""
    given: dict[str, Any] = {"request_id": fresh(), "trade_id": TRADE_ID, "amount": eur(1), "reason": "broken"}
    return Bad("RefundTrade", pb.RefundTradeRequest(**(given | changes)), fields)


def closing(fields: list[str], **changes: Any) -> Bad:
    """CloseTrade with something wrong."""
    given: dict[str, Any] = {"request_id": fresh(), "trade_id": TRADE_ID}
    return Bad("CloseTrade", pb.CloseTradeRequest(**(given | changes)), fields)


CREATE_FIELDS = [
    # missing and malformed
    creating(["request_id"], request_id=""),
    creating(["request_id"], request_id="r" * 65),
    creating(["request_id"], request_id="with space"),
    creating(["request_id"], request_id="bell\x07"),
    creating(["request_id"], request_id="grün"),
    creating(["buyer_id"], buyer_id=""),
    creating(["buyer_id"], buyer_id="b" * 65),
    creating(["buyer_id"], buyer_id="a/b"),
    creating(["buyer_id"], buyer_id="a\n"),
    creating(["payee_id"], payee_id=""),
    creating(["payee_id"], payee_id="p p"),
    creating(["payee_id"], trade_type=trade_pb2.TRADE_TYPE_TOP_UP),
    creating(["payee_id"], trade_type=trade_pb2.TRADE_TYPE_CASH_OUT),
    creating(["payee_id"], trade_type=trade_pb2.TRADE_TYPE_PEER_TRANSFER, payee_id=BUYER),
    creating(["merchant_order_no"], merchant_order_no="n" * 65),
    creating(["merchant_order_no"], merchant_order_no="n\t1"),
    creating(["scene"], scene="s" * 65),
    creating(["scene"], scene="check\x00out"),
    # unknown enum values
    creating(["trade_type"], trade_type=trade_pb2.TRADE_TYPE_UNSPECIFIED),
    creating(["trade_type"], trade_type=99),
    creating(["trade_type"], trade_type=-1),
    creating(["trade_type"], trade_type=trade_pb2.TRADE_TYPE_REFUND),
    # amounts and currencies
    creating(["amount"], amount=None),
    creating(["amount"], amount=Money()),
    creating(["amount.amount_minor"], amount=eur(0)),
    creating(["amount.amount_minor"], amount=eur(-INT64_MAX)),
    creating(["amount.currency_code"], amount=Money(currency_code="EUX", amount_minor=1)),
    creating(["amount.currency_code"], amount=Money(currency_code="eur", amount_minor=1)),
    creating(["amount.currency_code"], amount=Money(currency_code="", amount_minor=1)),
    creating(["amount.currency_code"], amount=Money(currency_code="EUR\n", amount_minor=1)),
    # lines
    creating(["lines[0].sku"], lines=[line(sku="")]),
    creating(["lines[0].sku"], lines=[line(sku="s" * 65)]),
    creating(["lines[0].title"], lines=[line(title="t" * 256)]),
    creating(["lines[0].title"], lines=[line(title="\x1b[2J")]),
    creating(["lines[0].title"], lines=[line(title="a\u202eb")]),
    creating(["lines[0].quantity", "amount.amount_minor"], lines=[line(quantity=0)]),
    creating(["lines[0].unit_price", "amount.amount_minor"], lines=[line(unit_price=None)]),
    creating(
        ["lines[0].unit_price.currency_code"], lines=[line(unit_price=Money(currency_code="USD", amount_minor=1000))]
    ),
    creating(["amount.amount_minor"], lines=[line(), line()]),
    creating(["lines"], lines=[line(quantity=INT64_MAX, unit_price=eur(10**15))]),
    creating(["lines"], lines=[line(unit_price=eur(10)) for _ in range(101)], amount=eur(1000)),
    # time to live
    creating(["time_to_live"], time_to_live={"seconds": 0}),
    creating(["time_to_live"], time_to_live={"seconds": -5}),
    creating(["time_to_live"], time_to_live={"seconds": 30 * 86_400 + 1}),
    creating(["time_to_live"], time_to_live={"seconds": 5, "nanos": -1}),
    creating(["hold_time_to_live"], hold_time_to_live={"seconds": 60}),
    creating(["hold_time_to_live"], trade_type=trade_pb2.TRADE_TYPE_ESCROW, hold_time_to_live={"seconds": 0}),
    creating(["hold_time_to_live"], trade_type=trade_pb2.TRADE_TYPE_ESCROW, hold_time_to_live={"seconds": 2**40}),
    # parts
    creating(["parts"], parts=[trade_pb2.TradePart(payee_id="p", amount=eur(1000))]),
    creating(["parts[0].amount"], parts=[trade_pb2.TradePart(payee_id="p")]),
    creating(["merged_trade_ids[0]"], merged_trade_ids=["trd_short"]),
    creating(["merged_trade_ids"], merged_trade_ids=[TRADE_ID] * 17),
    # several at once
    creating(["request_id", "buyer_id", "amount.amount_minor"], request_id="", buyer_id="", amount=eur(0)),
]

METHOD_FIELDS = [
    creating(["pay_methods[0].tool"], pay_methods=[trade_pb2.PayMethod()]),
    creating(["pay_methods[0].card.card_token"], pay_methods=[card("")]),
    creating(["pay_methods[0].card.card_token"], pay_methods=[card("t" * 65)]),
    creating(["pay_methods[0].card.card_token"], pay_methods=[card("4111111111111111")]),
    creating(["pay_methods[0].card.card_token"], pay_methods=[card("4111-1111-1111-1111")]),
    creating(["pay_methods[0].amount.amount_minor"], pay_methods=[card("t", amount=eur(-1)), BALANCE]),
    creating(
        ["pay_methods[1].amount.currency_code"],
        pay_methods=[BALANCE, card("t", amount=Money(currency_code="QQQ", amount_minor=1))],
    ),
    creating(
        ["pay_methods[0].amount.currency_code"],
        pay_methods=[card("t", amount=Money(currency_code="USD", amount_minor=1)), BALANCE],
    ),
    creating(["pay_methods"], pay_methods=[card("t", amount=eur(999))]),
    creating(["pay_methods"], pay_methods=[card("t", amount=eur(1000)), BALANCE]),
    creating(["pay_methods"], pay_methods=[BALANCE, CARD]),
    creating(["pay_methods"], pay_methods=[card("t", amount=eur(400)), card("u", amount=eur(300)), card("v")]),
    creating(["pay_methods"], pay_methods=[card("t", amount=eur(100)) for _ in range(9)]),
    creating(["pay_methods[0].wallet.wallet_token"], pay_methods=[trade_pb2.PayMethod(wallet=trade_pb2.WalletTool())]),
    creating(["pay_methods[0].coupon.coupon_id"], pay_methods=[trade_pb2.PayMethod(coupon=trade_pb2.CouponTool())]),
    creating(["pay_methods[0]"], pay_methods=[trade_pb2.PayMethod(bank=trade_pb2.BankTool(bank_token="t"))]),
    creating(["pay_methods[0]"], trade_type=trade_pb2.TRADE_TYPE_TOP_UP, payee_id="", pay_methods=[BALANCE]),
]

OTHER_FIELDS = [
    Bad("CaptureTrade", pb.CaptureTradeRequest(request_id="r", trade_id=PAYMENT_ID), ["trade_id"]),
    Bad(
        "CaptureTrade",
        pb.CaptureTradeRequest(request_id="r", trade_id=TRADE_ID, amount=eur(0)),
        ["amount.amount_minor"],
    ),
    Bad("VoidTrade", pb.VoidTradeRequest(request_id="", trade_id=TRADE_ID), ["request_id"]),
    Bad("VoidTrade", pb.VoidTradeRequest(request_id="r", trade_id=TRADE_ID, reason="\x7f"), ["reason"]),
    Bad("RepriceTrade", pb.RepriceTradeRequest(request_id="r", trade_id=TRADE_ID), ["amount"]),
    Bad(
        "RepriceTrade",
        pb.RepriceTradeRequest(request_id="r", trade_id=TRADE_ID, amount=eur(-5)),
        ["amount.amount_minor"],
    ),
    paying(["request_id"], request_id=""),
    paying(["trade_id"], trade_id=""),
    paying(["trade_id"], trade_id="trd_short"),
    paying(["trade_id"], trade_id=TRADE_ID + "0"),
    paying(["trade_id"], trade_id=TRADE_ID[:-1] + "\n"),
    paying(["trade_id"], trade_id=PAYMENT_ID),
    paying(["pay_methods"], pay_methods=[]),
    paying(["pay_methods"], pay_methods=[BALANCE] * 9),
    paying(["pay_methods[0].tool"], pay_methods=[trade_pb2.PayMethod()]),
    refunding(["request_id"], request_id=""),
    refunding(["trade_id"], trade_id=PAYMENT_ID),
    refunding(["amount.amount_minor"], amount=eur(0)),
    refunding(["amount"], amount=Money()),
    Bad("CaptureTrade", pb.CaptureTradeRequest(request_id="r", trade_id=TRADE_ID, amount=Money()), ["amount"]),
    paying(["pay_methods[0].amount"], pay_methods=[card("tok", amount=Money())]),
    refunding(["amount.amount_minor"], amount=eur(-1)),
    refunding(["amount.currency_code"], amount=Money(currency_code="EU", amount_minor=1)),
    refunding(["reason"], reason="r" * 256),
    refunding(["reason"], reason="line\nbreak"),
    closing(["request_id"], request_id=""),
    closing(["trade_id"], trade_id="x" * 200),
    closing(["reason"], reason="\x7f"),
    Bad("GetTrade", pb.GetTradeRequest(), ["trade_id"]),
    Bad("GetTrade", pb.GetTradeRequest(trade_id=PAYMENT_ID), ["trade_id"]),
    Bad("ListTrades", pb.ListTradesRequest(), ["buyer_id"]),
    Bad("ListTrades", pb.ListTradesRequest(buyer_id="a b"), ["buyer_id"]),
    Bad("ListTrades", pb.ListTradesRequest(buyer_id=BUYER, page_size=-1), ["page_size"]),
    Bad("ListTrades", pb.ListTradesRequest(buyer_id=BUYER, page_size=201), ["page_size"]),
    Bad("ListTrades", pb.ListTradesRequest(buyer_id=BUYER, page_token="%%%"), ["page_token"]),
]


async def refusal(call: Awaitable[Any]) -> MeshError:
    """The error a call is answered with."""
    try:
        answer = await call
    except MeshError as error:
        return error
    raise AssertionError(f"not refused, but answered {answer}")


@pytest.mark.parametrize("table", [CREATE_FIELDS, METHOD_FIELDS, OTHER_FIELDS], ids=["create", "methods", "others"])
async def test_every_wrong_field_is_named_and_nothing_is_written(running: Running, table: list[Bad]) -> None:
    await until(running.service.is_idle)  # the rows of calls that were answered are gone
    before = await running.bench.counts()
    for bad in table:
        error = await refusal(getattr(running.stub, bad.method)(bad.request))
        assert isinstance(error, InvalidArgument), (bad, error)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD"), bad
        assert [violation.field for violation in error.violations] == bad.fields, bad
    assert await running.bench.counts() == before


async def test_a_watch_names_its_wrong_field(running: Running) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await anext(running.stub.WatchTrade(pb.WatchTradeRequest(trade_id=PAYMENT_ID)))
    assert [violation.field for violation in caught.value.violations] == ["trade_id"]


async def test_bytes_that_are_no_request_are_refused_as_malformed(running: Running) -> None:
    await until(running.service.is_idle)  # the rows of calls that were answered are gone
    before = await running.bench.counts()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.service.port}") as channel:
        call: Any = channel.unary_unary("/paymesh.trade.v1.TradeService/CreateTrade")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff", timeout=10)
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    assert await running.bench.counts() == before


async def test_more_items_than_a_batch_takes_are_refused_as_a_whole(running: Running) -> None:
    await until(running.service.is_idle)  # the rows of calls that were answered are gone
    before = await running.bench.counts()
    items = [pb.CreateTradeItem(request=purchase()) for _ in range(201)]
    error = await refusal(running.stub.BatchCreateTrades(pb.BatchCreateTradesRequest(items=items)))
    assert isinstance(error, InvalidArgument)
    assert [violation.field for violation in error.violations] == ["items"]
    assert await running.bench.counts() == before


async def test_what_the_state_does_not_allow_is_refused_with_the_state(running: Running) -> None:
    number = fresh("order")
    paid = await running.create(pay_methods=[BALANCE], merchant_order_no=number)
    created = await running.create()
    used = purchase()
    await running.stub.CreateTrade(used)
    other_body = purchase(request_id=used.request_id, amount=eur(2000))
    pay = pb.PayTradeRequest(request_id=fresh(), trade_id=paid.trade_id, pay_methods=[CARD])
    too_much = pb.RefundTradeRequest(request_id=fresh(), trade_id=paid.trade_id, amount=eur(1001))
    other_currency = Money(currency_code="USD", amount_minor=1)
    foreign = pb.RefundTradeRequest(request_id=fresh(), trade_id=paid.trade_id, amount=other_currency)
    refused = [
        (running.stub.PayTrade, pay, "FAILED_PRECONDITION", "ILLEGAL_STATE", paid.trade_id),
        (
            running.stub.CloseTrade,
            pb.CloseTradeRequest(request_id=fresh(), trade_id=paid.trade_id),
            "FAILED_PRECONDITION",
            "ILLEGAL_STATE",
            paid.trade_id,
        ),
        (
            running.stub.RefundTrade,
            pb.RefundTradeRequest(request_id=fresh(), trade_id=created.trade_id),
            "FAILED_PRECONDITION",
            "ILLEGAL_STATE",
            created.trade_id,
        ),
        (running.stub.RefundTrade, too_much, "FAILED_PRECONDITION", "REFUND_EXCEEDS_REFUNDABLE", paid.trade_id),
        (running.stub.RefundTrade, foreign, "INVALID_ARGUMENT", "INVALID_FIELD", ""),
        (running.stub.CreateTrade, other_body, "ALREADY_EXISTS", "REQUEST_ID_REUSED", ""),
        (running.stub.CreateTrade, purchase(merchant_order_no=number), "ALREADY_EXISTS", "ORDER_EXISTS", ""),
    ]
    await until(running.service.is_idle)  # the rows of calls that were answered are gone
    before = await running.bench.counts()
    for method, request, code, reason, subject in refused:
        error = await refusal(method(request))
        assert (error.code, error.reason, getattr(error, "subject", "")) == (code, reason, subject)
    assert await running.bench.counts() == before
