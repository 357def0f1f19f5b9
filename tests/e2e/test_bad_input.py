"""What every method of every service does with input that is wrong: it says what is, and writes nothing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from meshctl.embedded import EmbeddedMesh
from meshctl.scenarios import Desk
from meshctl.scenarios.desk import card, money
from paykit.ids import new_id
from paykit.rpc.methods import method_of
from paymesh.trade.v1 import trade_pb2, trade_service_pb2
from paymesh.trade.v1.trade_pb2 import TRADE_TYPE_PURCHASE
from tests.e2e.wire import BATCH, METHODS, UNARY, Refusal, Wire, of_status, text_fields, written

CREATE_TRADE = method_of("/paymesh.trade.v1.TradeService/CreateTrade")
PAY_TRADE = method_of("/paymesh.trade.v1.TradeService/PayTrade")
CLOSE_TRADE = method_of("/paymesh.trade.v1.TradeService/CloseTrade")
REFUND_TRADE = method_of("/paymesh.trade.v1.TradeService/RefundTrade")

INTERNAL = [method for method in UNARY if not method.is_edge]
MUTATIONS = [method for method in UNARY if method.has_request_id]
# Fields that hold an id of ours, by name.
ID_PREFIX = {
    "trade_id": "trd",
    "payment_id": "pay",
    "account_id": "acc",
    "channel_order_id": "chn",
    "break_id": "brk",
    "dead_letter_id": "ded",
}
BY_ID = [
    (method, field)
    for method in UNARY
    for field in text_fields(method)
    if field in ID_PREFIX and method.path.split("/")[-1].startswith(("Get", "Watch", "List", "Close", "Replay"))
]
FREE_TEXT = {"reason", "id"}  # may hold any visible character: words for people, and a provider's reference
HOSTILE = {
    "too long": "x" * 300,
    "control character": "a\x00b",
    "line break": "a\nb",
    "direction mark": "a\u202eb",
    "markup": "<b>'; --",
}


def _an_id(prefix: str) -> str:
    """An id of the right form that nobody has."""
    return new_id(prefix, 7, time.time_ns() // 1_000_000)


def _context() -> list[tuple[str, str]]:
    return [("x-biz-id", _an_id("biz"))]


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def wire(mesh: EmbeddedMesh) -> AsyncIterator[Wire]:
    opened = Wire(mesh.addresses)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def nothing_written(mesh: EmbeddedMesh) -> AsyncIterator[None]:
    """Fails the test where any service carries out a command or sends a message because of it."""
    await mesh.settle()
    before = await written(mesh)
    yield
    assert await written(mesh) == before


def test_the_contract_has_methods_of_every_sort() -> None:
    assert len(INTERNAL) >= 8
    assert len(MUTATIONS) >= 10
    assert len(BY_ID) >= 7
    assert len(BATCH) >= 10


@pytest.mark.usefixtures("nothing_written")
async def test_bytes_that_are_no_message_are_refused(wire: Wire) -> None:
    for method in METHODS:
        refusal = await wire.refused(method, b"\xff\xff\xff not protobuf", _context())
        assert (method.path, refusal.code, refusal.reason) == (method.path, "INVALID_ARGUMENT", "MALFORMED_REQUEST")


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize("metadata", [[], [("x-biz-id", "biz_made_up")]], ids=["none", "malformed"])
async def test_an_internal_method_refuses_a_call_without_a_business_context(
    metadata: list[tuple[str, str]], wire: Wire
) -> None:
    for method in INTERNAL:
        refusal = await wire.refused(method, method.request_type(), metadata)
        assert (method.path, refusal.code, refusal.reason) == (method.path, "FAILED_PRECONDITION", "CONTEXT_MISSING")


@pytest.mark.usefixtures("nothing_written")
async def test_a_mutation_names_request_id_and_every_other_missing_field(wire: Wire) -> None:
    for method in MUTATIONS:
        refusal = await wire.refused(method, method.request_type(), _context())
        assert (method.path, refusal.code, refusal.reason) == (method.path, "INVALID_ARGUMENT", "INVALID_FIELD")
        assert refusal.fields["request_id"] == "required"
        assert len(refusal.fields) > 1, method.path


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
async def test_every_text_field_refuses_what_could_not_be_stored_or_shown(text: str, wire: Wire) -> None:
    checked = 0
    for method in UNARY:
        for field in text_fields(method):
            if field in FREE_TEXT and text.isprintable() and len(text) < 64:
                continue
            refusal = await wire.refused(method, method.request_type(**{field: text}), _context())
            assert (method.path, refusal.code) == (method.path, "INVALID_ARGUMENT")
            assert field in refusal.fields, method.path
            assert text not in refusal.message, method.path
            checked += 1
    assert checked > 40


@pytest.mark.usefixtures("nothing_written")
async def test_an_id_of_another_kind_is_invalid_and_an_unknown_one_is_not_found(wire: Wire) -> None:
    others = {"request_id": "r-1", "reason": "none", "from_date": "2026-11-01", "to_date": "2026-11-02"}
    for method, field in BY_ID:
        rest = {name: value for name, value in others.items() if name in text_fields(method)}
        refusal = await wire.refused(method, method.request_type(**{field: _an_id("lin")}, **rest), _context())
        assert (method.path, refusal.code, list(refusal.fields)) == (method.path, "INVALID_ARGUMENT", [field])
        assert "another kind" in refusal.fields[field]
        outcome = await wire.call(method, method.request_type(**{field: _an_id(ID_PREFIX[field])}, **rest), _context())
        if isinstance(outcome, Refusal):
            assert (method.path, outcome.code) == (method.path, "NOT_FOUND")
        else:  # a list of what belongs to it
            assert (method.path.split("/")[-1][:4], outcome) == ("List", method.response_type())


@pytest.mark.usefixtures("nothing_written")
async def test_an_item_of_a_batch_fails_alone_with_the_status_of_the_single_call(wire: Wire) -> None:
    for method in BATCH:
        request: Any = method.request_type()
        request.items.add()
        request.items.add()
        answer: Any = await wire.call(method, request, _context())
        refusals = [of_status(result.status) for result in answer.results]
        assert [(refusal.code, refusal.domain) for refusal in refusals] == [("INVALID_ARGUMENT", "paymesh")] * 2
        assert all(refusal.fields for refusal in refusals), method.path
        empty: Any = await wire.call(method, method.request_type(), _context())
        assert len(empty.results) == 0


@pytest.mark.usefixtures("nothing_written")
async def test_a_batch_of_more_than_200_items_is_refused_whole(wire: Wire) -> None:
    for method in BATCH:
        request: Any = method.request_type()
        for _ in range(201):
            request.items.add()
        refusal = await wire.refused(method, request, _context())
        assert (method.path, refusal.code, list(refusal.fields)) == (method.path, "INVALID_ARGUMENT", ["items"])


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(
    ("currency", "amount_minor", "field"),
    [
        ("EUR", 0, "amount.amount_minor"),
        ("EUR", -1, "amount.amount_minor"),
        ("EUR", -(2**63), "amount.amount_minor"),
        ("", 100, "amount.currency_code"),
        ("eur", 100, "amount.currency_code"),
        ("XXX", 100, "amount.currency_code"),
        ("EURO", 100, "amount.currency_code"),
        ("DEM", 100, "amount.currency_code"),
    ],
)
async def test_an_amount_is_above_zero_and_of_a_currency_that_is_in_use(
    currency: str, amount_minor: int, field: str, wire: Wire
) -> None:
    methods = [method for method in MUTATIONS if "amount" in method.request_type.DESCRIPTOR.fields_by_name]
    assert len(methods) >= 7
    for method in methods:
        request = method.request_type(amount={"currency_code": currency, "amount_minor": amount_minor})
        refusal = await wire.refused(method, request, _context())
        assert (method.path, refusal.code) == (method.path, "INVALID_ARGUMENT")
        assert field in refusal.fields, method.path


@pytest.mark.usefixtures("nothing_written")
async def test_an_enum_value_that_does_not_exist_is_refused_by_name(wire: Wire) -> None:
    checked = []
    for method in UNARY:
        for field in method.request_type.DESCRIPTOR.fields:
            if field.enum_type is not None:
                wrong = [99] if field.is_repeated else 99
                refusal = await wire.refused(method, method.request_type(**{field.name: wrong}), _context())
                assert (method.path, refusal.code) == (method.path, "INVALID_ARGUMENT")
                path = f"{field.name}[0]" if field.is_repeated else field.name
                assert "99" in refusal.fields[path], method.path
                checked.append(field.name)
    assert set(checked) == {
        *("trade_type", "trade_types", "kind", "account_kind", "state", "states", "funder"),
        *("settlement_mode", "resolution", "strategy", "type"),
    }


@pytest.mark.usefixtures("nothing_written")
async def test_a_list_refuses_a_page_that_it_never_promised(wire: Wire) -> None:
    lists = [method for method in UNARY if "page_token" in text_fields(method)]
    assert len(lists) >= 7
    for method in lists:
        for wrong in ({"page_size": -1}, {"page_size": 201}, {"page_token": "made-up"}):
            refusal = await wire.refused(method, method.request_type(**wrong), _context())
            assert (method.path, refusal.code) == (method.path, "INVALID_ARGUMENT")
            assert set(wrong) <= set(refusal.fields), method.path


@pytest.mark.usefixtures("nothing_written")
async def test_a_shadow_flag_that_is_not_understood_never_counts_as_live(wire: Wire) -> None:
    for method in UNARY:
        refusal = await wire.refused(method, method.request_type(), [*_context(), ("x-shadow", "maybe")])
        assert (method.path, refusal.code, list(refusal.fields)) == (method.path, "INVALID_ARGUMENT", ["x-shadow"])


def _purchase(desk: Desk, request_id: str, amount_minor: int = 1000) -> trade_service_pb2.CreateTradeRequest:
    return trade_service_pb2.CreateTradeRequest(
        request_id=request_id,
        trade_type=TRADE_TYPE_PURCHASE,
        buyer_id=desk.name("ann"),
        payee_id=desk.name("shop"),
        amount=money(amount_minor),
        pay_methods=[card()],
    )


async def test_a_request_sent_again_has_one_effect_and_the_first_answer(desk: Desk, wire: Wire) -> None:
    request_id = desk.name("again")
    first: Any = await wire.call(CREATE_TRADE, _purchase(desk, request_id))
    await desk.finished(first.trade.trade_id)
    again: Any = await wire.call(CREATE_TRADE, _purchase(desk, request_id))
    assert again.trade.trade_id == first.trade.trade_id
    await desk.expect_channel_moves(await desk.trade(first.trade.trade_id), ("CHARGE", 1000))
    response = await desk.trades.ListTrades(trade_service_pb2.ListTradesRequest(buyer_id=desk.name("ann")))
    assert [trade.trade_id for trade in response.trades] == [first.trade.trade_id]


async def test_a_request_id_with_another_body_is_refused(desk: Desk, wire: Wire) -> None:
    request_id = desk.name("again")
    first: Any = await wire.call(CREATE_TRADE, _purchase(desk, request_id))
    refusal = await wire.refused(CREATE_TRADE, _purchase(desk, request_id, amount_minor=1001))
    assert (refusal.code, refusal.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
    await desk.finished(first.trade.trade_id)


async def test_what_the_state_of_a_trade_does_not_allow_is_refused_naming_the_trade(desk: Desk, wire: Wire) -> None:
    shop = desk.name("shop")
    unpaid = await desk.order(TRADE_TYPE_PURCHASE, desk.name("ann"), 1000, payee_id=shop)
    made = await desk.order(TRADE_TYPE_PURCHASE, desk.name("ann"), 1000, card(), payee_id=shop)
    paid = await desk.finished(made.trade_id)
    refusals = [
        await wire.refused(
            REFUND_TRADE, trade_service_pb2.RefundTradeRequest(request_id="r-1", trade_id=unpaid.trade_id)
        ),
        await wire.refused(
            REFUND_TRADE,
            trade_service_pb2.RefundTradeRequest(request_id="r-2", trade_id=paid.trade_id, amount=money(1001)),
        ),
        await wire.refused(
            PAY_TRADE,
            trade_service_pb2.PayTradeRequest(request_id="r-3", trade_id=paid.trade_id, pay_methods=[card()]),
        ),
        await wire.refused(CLOSE_TRADE, trade_service_pb2.CloseTradeRequest(request_id="r-4", trade_id=paid.trade_id)),
    ]
    assert {refusal.code for refusal in refusals} == {"FAILED_PRECONDITION"}
    wanted = [[unpaid.trade_id], [paid.trade_id], [paid.trade_id], [paid.trade_id]]
    assert [refusal.subjects for refusal in refusals] == wanted
    assert (await desk.trade(paid.trade_id)).state == trade_pb2.TRADE_STATE_PAID
    await desk.finished(unpaid.trade_id)


async def test_a_card_number_is_never_taken_for_a_token(desk: Desk, wire: Wire) -> None:
    request = _purchase(desk, desk.name("pan"))
    request.pay_methods[0].card.card_token = "4242424242424242"
    refusal = await wire.refused(CREATE_TRADE, request)
    assert refusal.code == "INVALID_ARGUMENT"
    assert "4242424242424242" not in refusal.message
