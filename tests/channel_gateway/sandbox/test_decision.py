"""The provider's decisions, as a pure function."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.sandbox.decision import decide, decide_as_customer
from channel_gateway.sandbox.entries import UNUSED, Decision, Entry, OrderBody, OrderRequest, Timing, Used

NOW_MS = 1_700_000_000_000
TIMING = Timing(settle_ms=50, late_ms=3_000, hold_ms=10_000, abandon_ms=60_000)


def request(
    kind: Any, reference: str, amount_minor: int = 1_000, *, customer_confirms: bool = False, **body: Any
) -> OrderRequest:
    return OrderRequest(
        customer_confirms=customer_confirms,
        kind=kind,
        account="card",
        livemode=True,
        idempotency_key=reference,
        body=OrderBody(reference=reference, amount_minor=amount_minor, currency="EUR", **body),
    )


def decided(order: OrderRequest, original: Entry | None = None, used: Used = UNUSED, now_ms: int = NOW_MS) -> Decision:
    return decide(order, None, original, used, now_ms, TIMING)


def booked(decision: Decision) -> Entry:
    assert decision.entry is not None
    return decision.entry


def test_a_pending_order_settles_by_itself() -> None:
    entry = booked(decided(request("charge", "r1", token="tok_notify_never")))
    assert entry.status(NOW_MS) == "pending"
    assert entry.status(NOW_MS + TIMING.settle_ms) == "succeeded"


def test_a_late_notification_waits_beyond_the_settlement() -> None:
    (soon,) = decided(request("charge", "r1", token="tok_notify_only")).notifications
    (late,) = decided(request("charge", "r2", token="tok_notify_late")).notifications
    assert soon.due_at_ms == NOW_MS + TIMING.settle_ms
    assert late.due_at_ms == NOW_MS + TIMING.settle_ms + TIMING.late_ms


def test_what_the_provider_forgets_is_not_booked() -> None:
    assert decided(request("charge", "r1", token="tok_timeout_uncharged")).entry is None


@given(amounts=st.lists(st.integers(1, 600), max_size=12))
def test_refunds_never_exceed_their_charge(amounts: list[int]) -> None:
    charge = booked(decided(request("charge", "c1", 1_000, token="tok_ok")))
    refunded, used = 0, UNUSED
    for n, amount in enumerate(amounts):
        refund = booked(decided(request("refund", f"f{n}", amount, original_reference="c1"), charge, used))
        used = used.with_entry(refund)
        fits = refunded + amount <= 1_000
        assert refund.outcome == ("succeeded" if fits else "failed")
        assert refund.failure_code == ("" if fits else "refund_exceeds_charge")
        refunded += amount if fits else 0
    assert refunded <= 1_000


def test_a_refund_needs_a_succeeded_charge() -> None:
    declined = booked(decided(request("charge", "c1", token="tok_declined")))
    payout = booked(decided(request("payout", "p1", token="tok_ok")))
    codes = [
        booked(decided(request("refund", "f1", original_reference="c1"), original)).failure_code
        for original in (None, declined, payout)
    ]
    assert codes == ["charge_not_found", "charge_not_succeeded", "charge_not_found"]


def test_a_refund_of_an_expired_card_fails_for_good_and_says_why() -> None:
    charge = booked(decided(request("charge", "c1", token="tok_ok__refund_expired")))
    refund = booked(decided(request("refund", "f1", original_reference="c1"), charge))
    assert (refund.outcome, refund.failure_code) == ("failed", "card_expired")


@pytest.mark.parametrize(("token", "moved_minor"), [("tok_pays_more", 1_500), ("tok_pays_less", 500)])
def test_a_charge_may_move_another_amount_which_is_told_once_it_succeeded(token: str, moved_minor: int) -> None:
    charge = booked(decided(request("charge", "c1", 1_000, token=token, customer_confirms=True)))
    settled_ms = NOW_MS + TIMING.settle_ms
    assert (charge.answer(NOW_MS).amount_minor, charge.answer(settled_ms).amount_minor) == (1_000, moved_minor)
    for amount_minor, outcome in ((moved_minor, "succeeded"), (moved_minor + 1, "failed")):
        refund = request("refund", "f1", amount_minor, original_reference="c1")
        assert booked(decided(refund, charge, now_ms=settled_ms)).outcome == outcome


def test_what_pays_less_pays_something() -> None:
    assert booked(decided(request("charge", "c1", 200, token="tok_pays_less"))).moving_minor == 1


def test_an_authorization_reserves_what_was_asked_for_whatever_a_charge_would_have_moved() -> None:
    assert booked(decided(request("authorize", "a1", 1_000, token="tok_pays_more"))).moving_minor == 1_000


def authorized(token: str = "tok_ok") -> Entry:
    return booked(decided(request("authorize", "a1", 1_000, token=token)))


def following(
    kind: Any, amount_minor: int = 1_000, used: Used = UNUSED, now_ms: int = NOW_MS, **body: Any
) -> tuple[str, str]:
    order = request(kind, "f1", amount_minor, original_reference="a1", **body)
    entry = booked(decided(order, authorized(), used, now_ms))
    return entry.outcome, entry.failure_code


def test_a_capture_takes_at_most_what_is_reserved_while_it_is_reserved() -> None:
    assert following("capture", 400) == ("succeeded", "")
    assert following("capture", 1_001) == ("failed", "capture_exceeds_auth")
    assert following("capture", now_ms=NOW_MS + TIMING.hold_ms) == ("failed", "auth_expired")
    assert following("capture", used=Used(is_closed=True)) == ("failed", "auth_not_open")


def test_a_void_of_what_is_not_reserved_any_more_is_no_error_and_one_of_what_was_captured_is() -> None:
    assert following("void") == ("succeeded", "")
    assert following("void", now_ms=NOW_MS + TIMING.hold_ms) == ("succeeded", "")
    assert following("void", used=Used(is_closed=True)) == ("succeeded", "")
    assert following("void", 600, used=Used(captured_minor=400, is_closed=True)) == ("succeeded", "")
    assert following("void", 601, used=Used(captured_minor=400, is_closed=True)) == ("failed", "auth_not_open")


@pytest.mark.parametrize("kind", ["capture", "void"])
def test_what_follows_needs_an_open_authorization_in_its_currency(kind: Any) -> None:
    charge = booked(decided(request("charge", "a1", token="tok_ok")))
    declined, pending = authorized("tok_declined"), authorized("tok_notify_never")
    foreign = msgspec.structs.replace(authorized(), currency="USD")
    order = request(kind, "f1", original_reference="a1")
    codes = [booked(decided(order, original)).failure_code for original in (None, charge, declined, pending, foreign)]
    assert codes == ["auth_not_found", "auth_not_found", "auth_not_open", "auth_not_open", "currency_mismatch"]


@pytest.mark.parametrize(
    ("kind", "token", "code"),
    [("capture", "tok_ok__capture_auth_expired", "auth_expired"), ("void", "tok_ok__void_declined", "card_declined")],
)
def test_the_token_of_an_authorization_says_how_it_goes_on(kind: Any, token: str, code: str) -> None:
    entry = booked(decided(request(kind, "f1", original_reference="a1"), authorized(token)))
    assert (entry.outcome, entry.failure_code) == ("failed", code)


def test_a_capture_is_refunded_as_the_token_of_its_authorization_says() -> None:
    capture = booked(decided(request("capture", "c1", original_reference="a1"), authorized("tok_ok__refund_expired")))
    refund = booked(decided(request("refund", "f1", original_reference="c1"), capture))
    assert (refund.outcome, refund.failure_code) == ("failed", "card_expired")


_STEPS = st.lists(st.tuples(st.sampled_from(["capture", "void"]), st.integers(1, 600), st.booleans()), max_size=12)


@given(steps=_STEPS)
def test_whatever_follows_an_authorization_never_takes_more_than_it_and_nothing_after_its_end(
    steps: list[tuple[Any, int, bool]],
) -> None:
    authorization, used, captured, is_over = authorized(), UNUSED, 0, False
    for n, (kind, amount_minor, is_final) in enumerate(steps):
        order = request(kind, f"f{n}", amount_minor, original_reference="a1", is_final=is_final)
        entry = booked(decided(order, authorization, used))
        used = used.with_entry(entry)
        if entry.outcome == "succeeded" and kind == "capture":
            assert not is_over
            captured += amount_minor
        is_over = is_over or (entry.outcome == "succeeded" and (kind == "void" or is_final))
    assert captured == used.captured_minor <= 1_000


def test_a_customer_who_takes_time_settles_late_and_one_who_never_comes_is_given_up() -> None:
    late = booked(decided(request("charge", "c1", token="tok_customer_late")))
    never = booked(decided(request("charge", "c2", token="tok_customer_never")))
    assert late.settle_at_ms == NOW_MS + TIMING.settle_ms + TIMING.late_ms
    assert never.status(NOW_MS + TIMING.abandon_ms - 1) == "pending"
    assert never.answer(NOW_MS + TIMING.abandon_ms).failure_code == "customer_timeout"


@pytest.mark.parametrize(
    ("token", "code"),
    [("tok_ok", ""), ("tok_declined", "customer_declined"), ("tok_insufficient", "insufficient_funds")],
)
def test_where_customers_confirm_a_charge_is_pending_and_then_notified(token: str, code: str) -> None:
    decision = decided(request("charge", "c1", token=token, customer_confirms=True))
    entry = booked(decision)
    assert entry.status(NOW_MS) == "pending"
    assert entry.answer(NOW_MS + TIMING.settle_ms).failure_code == code
    (notification,) = decision.notifications
    assert notification.due_at_ms == NOW_MS + TIMING.settle_ms


def test_a_customer_decides_a_pending_order_once() -> None:
    entry = booked(decided(request("charge", "c1", token="tok_customer_never")))
    for confirms, status, code in ((True, "succeeded", ""), (False, "failed", "customer_declined")):
        found = decide_as_customer(entry, confirms, NOW_MS + 5)
        assert found is not None
        settled, notification = found
        assert (settled.status(NOW_MS + 5), settled.failure_code) == (status, code)
        assert notification.due_at_ms == NOW_MS + 5
        assert decide_as_customer(settled, confirms, NOW_MS + 5) is None
