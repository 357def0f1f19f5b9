"""How tokens and fault rules choose what the provider does."""

from __future__ import annotations

import msgspec
import pytest

from channel_gateway.sandbox.behaviour import BEHAVIOURS, TOKEN_UNKNOWN, FaultRule, FaultScript, for_refund, for_token


@pytest.mark.parametrize("name", sorted(BEHAVIOURS))
def test_a_token_names_its_behaviour_by_prefix(name: str) -> None:
    assert for_token(f"tok_{name}").name == name
    assert for_token(f"tok_{name}_4711").name == name


@pytest.mark.parametrize("token", ["", "tok_", "ok", "4111111111111111", "tok_nothing"])
def test_a_token_that_names_nothing_is_declined(token: str) -> None:
    assert for_token(token) is TOKEN_UNKNOWN


def test_a_charge_token_may_name_what_its_refunds_do() -> None:
    assert for_refund("tok_ok").name == "ok"
    assert for_refund("tok_ok__refund_declined").name == "declined"
    assert for_token("tok_ok__refund_declined").name == "ok"


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
