"""An expression that could fail for a payment, or means nothing, is refused when it is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from pay_core.rules.expression import Expression, ExpressionInvalid
from pay_core.rules.model import TOOLS
from pay_core.rules.scope import payment_scope, route_scope, split_scope
from paykit.errors import FailedPrecondition

SCOPE = payment_scope(TOOLS)
VALUES: dict[str, Any] = {
    "operation": "TRANSFER",
    "currency": "EUR",
    "amount_minor": 500,
    "payer_id": "ann",
    "payee_ids": ("shop", "bob"),
    "tools": ("card", "points"),
    "settlement_mode": "ESCROW",
    "merchant": "m1",
    "trade_type": "PURCHASE",
    "scene": "app",
}


@pytest.mark.parametrize(
    ("source", "holds"),
    [
        ("true", True),
        (" false ", False),
        ("currency == 'EUR' && amount_minor >= 500", True),
        ("operation in ['RECHARGE', 'WITHDRAW']", False),
        ("'points' in tools", True),
        ("size(tools) == 2 && payee_ids.exists(id, id == 'bob')", True),
        ("amount_minor % 100 == 0 ? scene.startsWith('a') : merchant.endsWith('1')", True),
        ("scene.matches('^a.*') || trade_type.contains('x')", True),
        ("(amount_minor + 1) / 2 > 250", False),
        ("payer_id != 'ann' // not she", False),
    ],
)
def test_answers_what_it_says(source: str, holds: bool) -> None:
    assert Expression(source, "fees[0].when", SCOPE).holds(VALUES) is holds


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "does not compile"),
        ("currency ==", "does not compile at character 12: mismatched input '<EOF>'"),
        ("currency == 'EUR'\n && )", "does not compile at line 2, character"),
        ("token == 'x'", "unknown variable token: known here are amount_minor, currency"),
        ("instrument == 'CARD'", "unknown variable instrument"),
        ("tools.exists(t, t == u)", "unknown variable u"),
        ("now() > 5", "unknown function now"),
        ("int(scene) > 5", "unknown function int: known are contains, endsWith, matches, size, startsWith"),
        ("currency", "gives str instead of true or false"),
        ("currency == 'EUR' ? 1 : true", "fails where currency = 'EUR': gives int"),
        ("tools[0] == 'card'", "fails where tools = (): index out of bounds: 0"),
        ("payee_ids[0] == 'x'", "fails where payee_ids = ()"),
        ("100 / (amount_minor - 77) > 1", "fails where amount_minor = 77: division by zero"),
        ("amount_minor * 10000 > 5", "fails where amount_minor = 1000000000000000: Arithmetic overflow"),
        ("currency == 'KWD' && scene > 5", "scene is text: it is never 5"),
        ("currency == 'KWD' && scene + 5 == scene", "fails where currency = 'KWD'"),
        ("merchant == 'special' && tools[1] == 'card'", "fails where merchant = 'special'"),
        ("'x'.matches(scene)", "not a valid regex"),
        ("amount_minor > 1.5", "1.5 has a fraction: money is whole minor units"),
        ("amount_minor == '5'", "amount_minor is a whole number: it is never '5'"),
        ("operation == 'TRANSFR'", "operation is never 'TRANSFR': it is one of RECHARGE, REFUND, TRANSFER, WITHDRAW"),
        ("'PAY' != operation", "operation is never 'PAY'"),
        ("settlement_mode in ['ESCROW', 'LATER']", "settlement_mode is never 'LATER'"),
        ("currency == 'EURO'", "currency is never 'EURO': it is an ISO 4217 code"),
        ("'cards' in tools", "no element of tools is 'cards'"),
        ("tools == 'card'", "tools is a list of texts: ask 'card' in tools"),
        ("'a' in scene", "scene is text, no list"),
        ("scene == '" + "x" * 1000 + "'", "is longer than 1,000 characters"),
        ("tools.all(a, tools.all(b, tools.all(c, a == c)))", "has more than 2 of all, exists"),
        ("(" * 300 + "true" + ")" * 300, "does not compile"),
    ],
)
def test_what_is_wrong_is_found_before_it_is_used(source: str, message: str) -> None:
    with pytest.raises(ExpressionInvalid) as raised:
        Expression(source, "fees[0].when", SCOPE)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "source",
    ["'E' + currency == 'XEUR'", "scene + '5' == 'a5'", "amount_minor - 5 == 5", "scene in ['a', 'b' + scene]"],
)
def test_literals_that_are_part_of_something_larger_are_left_alone(source: str) -> None:
    assert Expression(source, "", SCOPE).holds(VALUES) is False


def test_routes_know_the_instrument_and_splits_the_payee() -> None:
    assert Expression("instrument == 'CARD'", "", route_scope(TOOLS)).holds({**VALUES, "instrument": "CARD"})
    assert Expression("payee_id == 'bob'", "", split_scope(TOOLS)).holds({**VALUES, "payee_id": "bob"})


def test_a_failure_that_no_sample_showed_refuses_the_payment() -> None:
    expression = Expression("size(scene) == 7 ? tools[9] == 'card' : true", "fees[3].when", SCOPE)
    with pytest.raises(FailedPrecondition) as raised:
        expression.holds({**VALUES, "scene": "kitchen"})
    assert raised.value.reason == "RULE_FAILED"
    assert raised.value.message.startswith("fees[3].when cannot be evaluated for this payment")


def test_a_kept_result_is_never_that_of_other_values() -> None:
    expression = Expression("currency == 'EUR' && 'card' in tools", "", SCOPE)
    answers = [
        expression.holds({**VALUES, "currency": currency, "tools": tools})
        for _ in range(2)
        for currency in ("EUR", "JPY")
        for tools in (("card",), ("balance",), ("balance", "card"))
    ]
    assert answers == [True, False, True, False, False, False] * 2
