"""What the provider does wrong in a run, as data: rates, windows of time and differences in its statements."""

from __future__ import annotations

from typing import Any

from tests.faults.orders import Tokens

# How long orders take into the book that get there later, and after every time that the provider has promised.
LATER_MS = 6_000
VERY_LATE_MS = 32_000

# Of the charges of cards that would work, in thousandths.
_CHARGES: dict[str, int] = {
    "declined": 20,
    "insufficient": 5,
    "timeout_charged": 8,
    "timeout_uncharged": 8,
    "drop_charged": 8,
    "drop_uncharged": 8,
    "reset_unread": 5,
    "error_charged": 8,
    "error_uncharged": 5,
    "unavailable": 5,
    "truncated": 5,
    "cut_off": 5,
    "huge": 5,
    "wrong_type": 5,
    "redirect": 5,
    "garbage": 5,
    "charged_later": 6,
    "charged_later_notified": 6,
    "charged_very_late": 6,
    "charged_very_late_silent": 4,
    "notify_only": 30,
    "notify_twice": 15,
    "notify_late": 10,
    "notify_before_reply": 10,
    "notify_never": 10,
    "notify_declined": 10,
    "notify_reordered": 8,
    "notify_contradict": 6,
    "notify_failed_after_success": 6,
    "notify_success_after_failed": 6,
    "notify_wrong_amount": 6,
    "notify_wrong_currency": 6,
    "notify_wrong_merchant": 6,
    "notify_unknown_order": 6,
    "forged_key": 4,
    "forged_stale": 4,
    "forged_changed": 4,
    "forged_account": 4,
    "answer_wrong_amount": 6,
    "answer_wrong_currency": 5,
    "answer_wrong_merchant": 5,
    "answer_not_found": 5,
    "declined_then_charged": 4,
    "charged_then_denied": 4,
    "booked_twice": 4,
    "booked_twice_silent": 4,
    "pays_more": 3,
    "pays_less": 3,
}
_REFUNDS: dict[str, int] = {
    "declined": 20,
    "timeout_charged": 15,
    "drop_uncharged": 10,
    "error_charged": 15,
    "charged_later": 10,
    "notify_only": 40,
    "notify_late": 15,
    "notify_contradict": 8,
    "garbage": 8,
    "answer_wrong_amount": 6,
}
_PAYOUTS: dict[str, int] = _REFUNDS | {"charged_very_late": 8, "booked_twice": 6, "notify_wrong_merchant": 8}
_AUTHORIZATIONS: dict[str, int] = {
    "declined": 20,
    "timeout_charged": 15,
    "drop_charged": 10,
    "drop_uncharged": 10,
    "notify_only": 30,
    "notify_contradict": 8,
    "charged_later": 8,
    "cut_off": 8,
}
_CAPTURES: dict[str, int] = {
    "timeout_charged": 15,
    "drop_charged": 15,
    "drop_uncharged": 15,
    "error_charged": 15,
    "notify_only": 30,
    "charged_later": 10,
    "truncated": 8,
}
_VOIDS: dict[str, int] = {"timeout_charged": 20, "drop_uncharged": 20, "error_charged": 20, "notify_only": 30}
# Of all queries, whatever they are about.
_QUERIES: dict[str, int] = {
    "unavailable": 40,
    "drop_charged": 20,
    "garbage": 15,
    "truncated": 15,
    "answer_pending": 20,
    "answer_not_found": 20,
    "answer_wrong_amount": 10,
    "answer_wrong_currency": 5,
    "answer_wrong_merchant": 10,
}
_OF_KIND: dict[str, dict[str, int]] = {
    "charge": _CHARGES,
    "refund": _REFUNDS,
    "payout": _PAYOUTS,
    "authorize": _AUTHORIZATIONS,
    "capture": _CAPTURES,
    "void": _VOIDS,
    "query": _QUERIES,
}
# What is chosen by token anyway, beside the rates.
TOKENS = Tokens(
    cards={"tok_ok": 92, "tok_declined": 3, "tok_insufficient": 2, "tok_notify_declined": 3},
    refundable=("tok_ok", "tok_ok", "tok_ok__refund_expired"),
    banks=("tok_ok",),
)
STATEMENT_RATES: dict[str, float] = {
    "missing_line": 0.003,
    "extra_line": 0.003,
    "duplicate_line": 0.003,
    "wrong_amount": 0.003,
    "wrong_currency": 0.002,
    "swapped_sign": 0.002,
    "next_day": 0.005,
}


def rules() -> list[dict[str, Any]]:
    """The fault rules of the run, one for each behaviour of each operation, with the chance of each as it is meant.

    The first rule that hits wins, so what comes later is raised by what comes before it.
    """
    made: list[dict[str, Any]] = []
    for kind, thousandths in _OF_KIND.items():
        left = 1_000
        for behaviour, share in thousandths.items():
            rule = {"behaviour": behaviour, "kind": kind, "probability": share / left}
            # A token that names what it does is left alone. What follows an order, and queries, have no token.
            made.append(rule | ({"token_prefix": "tok_ok"} if kind in ("charge", "payout", "authorize") else {}))
            left -= share
    return made


def maintenance(now_ms: int, for_ms: int) -> dict[str, Any]:
    """A window in which the first card channel is closed, but for queries: the second one is what is left."""
    closed = ["charge", "refund", "capture", "authorize", "void"]
    return {"account": "sandbox_card_live", "until_ms": now_ms + for_ms, "operations": closed}


def storm(now_ms: int, for_ms: int) -> dict[str, Any]:
    """A window in which every charge is booked and answered with an error."""
    return {"behaviour": "error_charged", "until_ms": now_ms + for_ms, "operations": ["charge"]}
