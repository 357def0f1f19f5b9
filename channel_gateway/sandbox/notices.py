"""What the provider says of an order, true or not: in notifications, and in answers to calls."""

from __future__ import annotations

import msgspec

from channel_gateway.sandbox.behaviour import TRUTH, Lie, Notice, other_currency, unknown_reference
from channel_gateway.sandbox.entries import Answer, Entry, Notification


def told(answer: Answer, lie: Lie) -> Answer:
    """The answer as the lie has it."""
    if lie == TRUTH:
        return answer
    status = lie.status or answer.status
    failure_code = answer.failure_code or "contradicted"
    return msgspec.structs.replace(
        answer,
        reference=unknown_reference(answer.reference) if lie.unknown_order else answer.reference,
        status=status,
        failure_code=failure_code if status == "failed" else "",
        amount_minor=answer.amount_minor + lie.amount_error_minor,
        currency=other_currency(answer.currency) if lie.wrong_currency else answer.currency,
        merchant=f"other_{answer.merchant}"[:64] if lie.wrong_merchant else answer.merchant,
    )


def notification_prefix(entry: Entry) -> str:
    """What the ids of an entry's notifications begin with."""
    return f"ntf_{entry.provider_reference}_"


def notification(entry: Entry, notice: Notice, number: int, late_ms: int) -> Notification:
    """What is sent of an entry, and when. ``number`` tells its notifications apart."""
    notification_id = f"{notification_prefix(entry)}{number}"
    order = told(entry.answer(entry.settle_at_ms), notice.lie)
    body = {"notification_id": notification_id, "created_at_ms": entry.settle_at_ms, "order": order}
    return Notification(
        id=notification_id,
        account=entry.account,
        body=msgspec.json.encode(body).decode(),
        due_at_ms=entry.settle_at_ms + (late_ms if notice.late else 0),
        copies=notice.copies,
        forgery=notice.forgery,
    )
