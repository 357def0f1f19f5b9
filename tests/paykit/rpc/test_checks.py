"""Every wrong field is named, all in one error; every right one passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paykit.errors import InvalidArgument
from paykit.ids import new_id
from paykit.rpc.checks import Fields, encode_page_token
from paymesh.common.v1 import context_pb2, money_pb2

PAY = new_id("pay", 5, 1_700_000_000_000)
TRD = new_id("trd", 5, 1_700_000_000_000)
Criticality = context_pb2.Criticality

WRONG: list[tuple[Callable[[Fields], object], str, str]] = [
    (lambda f: f.request_id(""), "request_id", "required"),
    (lambda f: f.request_id("x" * 65), "request_id", "1 to 64"),
    (lambda f: f.request_id("a b"), "request_id", "visible"),
    (lambda f: f.request_id("ünïq"), "request_id", "ASCII"),
    (lambda f: f.request_id("ab\n"), "request_id", "visible"),
    (lambda f: f.name("payer_id", ""), "payer_id", "required"),
    (lambda f: f.name("payer_id", "user/1"), "payer_id", "must be"),
    (lambda f: f.name("payer_id", "u\x00"), "payer_id", "must be"),
    (lambda f: f.name("payer_id", "u" * 65), "payer_id", "1 to 64"),
    (lambda f: f.id("payment_id", "", "pay"), "payment_id", "required"),
    (lambda f: f.id("payment_id", "pay_1", "pay"), "payment_id", "not an id"),
    (lambda f: f.id("payment_id", PAY + "0", "pay"), "payment_id", "not an id"),
    (lambda f: f.id("payment_id", PAY.upper(), "pay"), "payment_id", "not an id"),
    (lambda f: f.id("payment_id", TRD, "pay"), "payment_id", "another kind: trd_"),
    (lambda f: f.enum("criticality", 0, Criticality), "criticality", "required"),
    (lambda f: f.enum("criticality", 99, Criticality), "criticality", "99 is not a value of Criticality"),
    (lambda f: f.enum("criticality", 3, Criticality, (1, 2)), "criticality", "CRITICALITY_CORE, CRITICALITY_NORMAL"),
    (lambda f: f.money("amount", money_pb2.Money()), "amount", "required"),
    (lambda f: f.money("amount", money("EUR", 0)), "amount.amount_minor", "greater than zero"),
    (lambda f: f.money("amount", money("EUR", -1)), "amount.amount_minor", "greater than zero"),
    (lambda f: f.money("amount", money("eur", 1)), "amount.currency_code", "ISO 4217"),
    (lambda f: f.money("amount", money("", 1)), "amount.currency_code", "ISO 4217"),
    (lambda f: f.money("amount", money("EUR", -1), required=False), "amount.amount_minor", "greater than zero"),
    (lambda f: f.same_currency("fee", money("EUR", 1), "JPY"), "fee.currency_code", "must be JPY"),
    (lambda f: f.count("payees", [], 1, 16), "payees", "1 to 16 elements, not 0"),
    (lambda f: f.count("payees", [1] * 17, 1, 16), "payees", "not 17"),
    (lambda f: f.text("reason", "", 10, required=True), "reason", "required"),
    (lambda f: f.text("reason", "x" * 11, 10), "reason", "at most 10"),
    (lambda f: f.text("reason", "a\x1b[2J", 10), "reason", "control"),
    (lambda f: f.text("reason", "a\u202eb", 10), "reason", "control"),
    (lambda f: f.text("reason", "a\x7f", 10), "reason", "control"),
    (lambda f: f.page_size(-1), "page_size", "1 to 200"),
    (lambda f: f.page_size(201), "page_size", "1 to 200"),
    (lambda f: f.page_token("!!", "s", str), "page_token", "not a token"),
    (lambda f: f.page_token("x" * 600, "s", str), "page_token", "not a token"),
    (lambda f: f.page_token(encode_page_token("other", "a"), "s", str), "page_token", "not a token"),
    (lambda f: f.page_token(encode_page_token("s", 5), "s", str), "page_token", "not a token"),
]


def money(currency_code: str, amount_minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code=currency_code, amount_minor=amount_minor)


@pytest.mark.parametrize(("check", "field", "description"), WRONG)
def test_a_wrong_field_is_named_with_what_is_wrong(
    check: Callable[[Fields], object], field: str, description: str
) -> None:
    fields = Fields()
    check(fields)
    (violation,) = fields.violations
    assert violation.field == field
    assert description in violation.description
    with pytest.raises(InvalidArgument):
        fields.raise_if_any()


def test_right_fields_pass_and_come_back() -> None:
    fields = Fields()
    assert fields.request_id("order-1/α".replace("α", "a")) == "order-1/a"
    assert fields.name("payer_id", "user:1.a_b-c") == "user:1.a_b-c"
    assert fields.name("note_id", "", required=False) == ""
    assert fields.id("id", TRD, "pay", "trd") == TRD
    assert fields.id("id", "", "pay", required=False) == ""
    assert fields.enum("criticality", 2, Criticality) == 2
    assert fields.money("amount", money("KWD", 10**15)) == money("KWD", 10**15)
    assert fields.money("fee", money_pb2.Money(), required=False) is None
    assert fields.text("title", "Käse & 乳 \U0001f9c0\u00a0", 20) == "Käse & 乳 \U0001f9c0\u00a0"
    assert fields.page_size(0) == 50
    assert fields.page_size(200) == 200
    assert fields.page_token("", "s", str) is None
    fields.raise_if_any()


def test_all_violations_come_in_one_error_with_nested_paths() -> None:
    fields = Fields()
    fields.request_id("")
    line = fields.under("lines[2]")
    line.text("title", "", 10, required=True)
    line.under("price").money("amount", money("EUR", 0))
    with pytest.raises(InvalidArgument) as caught:
        fields.raise_if_any()
    assert [v.field for v in caught.value.violations] == [
        "request_id",
        "lines[2].title",
        "lines[2].price.amount.amount_minor",
    ]


def test_violations_are_bounded() -> None:
    fields = Fields()
    for index in range(1000):
        fields.fail(f"items[{index}]", "wrong")
    assert len(fields.violations) == 50


@given(st.text(), st.tuples(st.integers(0, 2**63), st.text()))
def test_a_page_token_gives_its_position_back(scope: str, position: tuple[int, str]) -> None:
    token = encode_page_token(scope, position)
    fields = Fields()
    if len(token) <= 512:
        assert fields.page_token(token, scope, tuple[int, str]) == position
        assert fields.violations == []


@given(st.text())
def test_no_text_makes_a_page_token_fail_otherwise_than_by_a_violation(token: str) -> None:
    fields = Fields()
    assert fields.page_token(token, "s", str) is None
    assert len(fields.violations) == (1 if token else 0)
