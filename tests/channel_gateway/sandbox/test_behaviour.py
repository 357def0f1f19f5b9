"""How tokens and fault rules choose what the provider does."""

from __future__ import annotations

import pytest

from channel_gateway.sandbox.behaviour import (
    BEHAVIOURS,
    TOKEN_UNKNOWN,
    as_confirmed,
    for_following,
    for_token,
)


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


@pytest.mark.parametrize("name", sorted(BEHAVIOURS))
def test_a_token_may_name_what_queries_are_answered(name: str) -> None:
    assert for_following("query", f"tok_ok__query_{name}").name == name


def test_a_provider_that_lies_or_breaks_its_word_is_told_from_one_that_fails() -> None:
    false = {name for name, behaviour in BEHAVIOURS.items() if behaviour.is_false}
    assert {"notify_contradict", "booked_twice", "charged_very_late_silent", "answer_wrong_amount"} <= false
    honest = {"ok", "forged_key", "timeout_charged", "charged_later", "notify_reordered", "garbage", "maintenance"}
    assert not honest & false
