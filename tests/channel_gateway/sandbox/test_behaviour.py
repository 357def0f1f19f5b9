"""How tokens and fault rules choose what the provider does."""

from __future__ import annotations

import msgspec
import pytest

from channel_gateway.sandbox.behaviour import (
    BEHAVIOURS,
    TOKEN_UNKNOWN,
    as_confirmed,
    for_following,
    for_token,
)
from channel_gateway.sandbox.faults import FaultRule, FaultScript


@pytest.mark.parametrize("name", sorted(BEHAVIOURS))
def test_a_token_names_its_behaviour_by_prefix(name: str) -> None:
    assert for_token(f"tok_{name}").name == name
    assert for_token(f"tok_{name}_4711").name == name


@pytest.mark.parametrize("token", ["", "tok_", "ok", "4111111111111111", "tok_nothing"])
def test_a_token_that_names_nothing_is_declined(token: str) -> None:
    assert for_token(token) is TOKEN_UNKNOWN


def test_a_token_may_name_what_its_refunds_captures_and_voids_do() -> None:
    assert for_following("refund", "tok_ok").name == "ok"
    assert for_following("refund", "tok_ok__refund_declined").name == "declined"
    assert for_following("capture", "tok_ok__refund_declined").name == "ok"
    token = "tok_ok__capture_auth_expired__void_timeout_charged__refund_expired_4711"
    names = [for_following(kind, token).name for kind in ("capture", "void", "refund")]
    assert names == ["auth_expired", "timeout_charged", "expired"]
    assert for_token(token).name == "ok"


def test_what_follows_with_an_unknown_mark_is_declined() -> None:
    assert for_following("void", "tok_ok__void_nonsense") is TOKEN_UNKNOWN


@pytest.mark.parametrize("name", sorted(BEHAVIOURS))
def test_a_charge_that_its_customer_confirms_is_pending_and_told_of_unless_it_is_forgotten(name: str) -> None:
    behaviour = BEHAVIOURS[name]
    confirmed = as_confirmed(behaviour)
    assert confirmed.outcome == behaviour.outcome
    assert confirmed.pending_first is behaviour.books
    if behaviour.books and not behaviour.pending_first:
        assert confirmed.notices
    assert confirmed.failure_code != "card_declined" or behaviour.pending_first


def test_the_first_matching_rule_wins_and_counts_down() -> None:
    script = FaultScript(
        [
            FaultRule(behaviour="declined", kind="charge", token_prefix="tok_ok_a", count=1),
            FaultRule(behaviour="timeout_charged", account="card"),
        ],
        seed=1,
    )

    def chosen(kind: str, account: str, token: str) -> str | None:
        behaviour = script.choose(kind, account, token, "r1")
        return behaviour.name if behaviour else None

    assert chosen("charge", "other", "tok_ok_b") is None
    assert chosen("charge", "other", "tok_ok_a") == "declined"
    assert chosen("charge", "other", "tok_ok_a") is None
    assert chosen("refund", "card", "") == "timeout_charged"
    assert chosen("query", "card", "") is None


def test_a_probability_falls_on_the_same_references_with_the_same_seed() -> None:
    def hits(seed: int) -> list[int]:
        script = FaultScript([FaultRule(behaviour="declined", probability=0.2)], seed)
        return [n for n in range(1000) if script.choose("charge", "a", "tok_ok", f"r{n}")]

    assert hits(1) == hits(1) != hits(2)
    assert 150 < len(hits(1)) < 250


@pytest.mark.parametrize("rule", [b'{"behaviour": "x"}', b'{"behaviour": "ok", "probability": 2}', b'{"a": 1}'])
def test_a_rule_that_makes_no_sense_is_refused(rule: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(rule, type=FaultRule)
