"""The provider's decisions, as a pure function."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.sandbox.entries import Decision, Entry, OrderBody, OrderRequest, Timing, decide

NOW_MS = 1_700_000_000_000
TIMING = Timing(settle_ms=50, late_ms=3_000)


def request(kind: Any, reference: str, amount_minor: int = 1_000, **body: Any) -> OrderRequest:
    return OrderRequest(
        kind=kind,
        account="card",
        livemode=True,
        idempotency_key=reference,
        body=OrderBody(reference=reference, amount_minor=amount_minor, currency="EUR", **body),
    )


def decided(order: OrderRequest, original: Entry | None = None, refunded_minor: int = 0) -> Decision:
    return decide(order, None, original, refunded_minor, NOW_MS, TIMING)


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
    refunded = 0
    for n, amount in enumerate(amounts):
        refund = booked(decided(request("refund", f"f{n}", amount, original_reference="c1"), charge, refunded))
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
