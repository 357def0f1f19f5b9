"""A provider's word against what is settled here, and what its answer to a question makes of it. Pure.

A terminal order never changes, and neither does what an order left on another channel. Where a provider says otherwise
a doubt is opened, and the provider is asked until its answer agrees with us (DISMISSED) or stands by its word
(CONFIRMED). Only an answer resolves a doubt: whatever a notification claims, it moves no money.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from channel_gateway.channel_order import (
    CHANNEL_ORDER,
    ChannelOrderState,
    ChannelPolicy,
    DoubtType,
    Mismatch,
    ProviderResult,
    ResultStatus,
    moved_minor,
)
from channel_gateway.mismatch import find_mismatch
from channel_gateway.tables import ChannelAttempt, ChannelDoubt, ChannelOrder
from paykit.state_machine import StateMachine

EVIDENCE_MAX = 4_000  # characters

MISMATCH_RESOLVED_EVENT = "channel.mismatch_resolved"


class DoubtState(StrEnum):
    """Where a doubt is."""

    OPEN = "OPEN"
    DISMISSED = "DISMISSED"  # the provider says now what is known here
    CONFIRMED = "CONFIRMED"  # the provider stands by its word


DOUBT = StateMachine(
    "channel_doubt",
    DoubtState,
    DoubtState.OPEN,
    {
        DoubtState.OPEN: frozenset({DoubtState.DISMISSED, DoubtState.CONFIRMED}),
        DoubtState.DISMISSED: frozenset(),
        DoubtState.CONFIRMED: frozenset(),
    },
)

_R, _S = ResultStatus, ChannelOrderState


class Verdict(NamedTuple):
    """What is so. ``confirmed`` is None where the provider agrees with us; then the rest says nothing."""

    confirmed: DoubtType | None
    amount_minor: int = 0
    currency: str = ""
    provider_reference: str = ""


_DISMISSED = Verdict(None)
_DONE = frozenset({DoubtType.LATE.value, DoubtType.DUPLICATE.value})  # the same, before and after the order ended


def left_mismatch(attempt: ChannelAttempt, order: ChannelOrder, result: ProviderResult) -> Mismatch | None:
    """Why a word on a channel that the order has left contradicts what was left there; None where it does not."""
    if result.status not in (_R.SUCCEEDED, _R.PENDING):
        return None
    feared = DoubtType.DUPLICATE if order.state == _S.SUCCEEDED else DoubtType.LATE
    return Mismatch(f"{result.status.value} on {attempt.channel}, which was left as {attempt.outcome}", feared)


def opened(
    doubt_id: str, key_no: int, order: ChannelOrder, attempt: ChannelAttempt | None, result: ProviderResult,
    mismatch: Mismatch, due_at_ms: int, now_ms: int,
) -> ChannelDoubt:  # fmt: skip
    """A new doubt on the order, or on an attempt that it has left behind; the ``key_no``-th on that channel."""
    channel = order.channel if attempt is None else attempt.channel
    known = order if attempt is None else attempt
    return ChannelDoubt(
        id=doubt_id,
        slot=order.slot,
        biz_id=order.biz_id,
        doubt_key=f"{order.id}/{channel}/{key_no}",
        channel_order_id=order.id,
        payment_id=order.payment_id,
        channel=channel,
        attempt_no=known.attempt_no,
        state=DOUBT.initial.value,
        type=mismatch.feared.value,
        amount_minor=moved_minor(order) if result.amount_minor is None else bounded_minor(result.amount_minor),
        currency=result.currency or order.currency,
        provider_reference=result.provider_reference or known.provider_reference,
        evidence=mismatch.evidence[:EVIDENCE_MAX],
        ask_count=0,
        due_at_ms=due_at_ms,
        context=order.context,
        opened_at_ms=now_ms,
        resolved_at_ms=None,
    )


def said_again(doubt: ChannelDoubt, evidence: str) -> ChannelDoubt | None:
    """The open doubt with further evidence; None where it says that already, or can hold no more."""
    if evidence in doubt.evidence or len(doubt.evidence) + len(evidence) >= EVIDENCE_MAX:
        return None
    return msgspec.structs.replace(doubt, evidence=f"{doubt.evidence}\n{evidence}")


def is_known(doubt: ChannelDoubt, result: ProviderResult, mismatch: Mismatch) -> bool:
    """Whether a CONFIRMED doubt says already what is said again: then there is nothing more to ask."""
    if doubt.state != DoubtState.CONFIRMED or (doubt.type in _DONE) != (mismatch.feared in _DONE):
        return False
    said = (result.provider_reference, result.amount_minor, result.currency)
    known = (doubt.provider_reference, doubt.amount_minor, doubt.currency)
    return all(one in (None, "", other) for one, other in zip(said, known, strict=True))


def is_askable(order: ChannelOrder, attempt: ChannelAttempt | None) -> bool:
    """Whether an answer can say anything yet: of an open order on its own channel its own questions come first."""
    return attempt is not None or CHANNEL_ORDER.is_terminal(order.state)


def question(order: ChannelOrder, doubt: ChannelDoubt) -> ChannelOrder:
    """The order as the doubt's channel is asked about it: by the reference that is in doubt there."""
    return msgspec.structs.replace(order, channel=doubt.channel, provider_reference=doubt.provider_reference)


def judge(
    order: ChannelOrder,
    attempt: ChannelAttempt | None,
    doubt: ChannelDoubt,
    answer: ProviderResult,
    asked_at_ms: int,
    policy: ChannelPolicy,
) -> Verdict | None:
    """What the provider's answer, asked at ``asked_at_ms``, says of the doubt; None where it must be asked again.

    ``attempt``: what the order left on the doubt's channel; None where that is still its own.
    """
    if answer.status is _R.SUCCEEDED:
        verdict = _stands(order, attempt, answer, policy)
        # An answer about what is known here says nothing of another order of the provider's that is in doubt.
        is_beside = verdict is _DISMISSED and _is_of_another(order, attempt, doubt)
        return None if is_beside else verdict
    if answer.status is _R.NOT_FOUND and not _is_gone_for_certain(doubt, asked_at_ms, policy):
        return None
    if answer.status not in (_R.FAILED, _R.NOT_FOUND):
        return None
    if attempt is not None or order.state == _S.FAILED:
        return _DISMISSED
    if order.state == _S.SUCCEEDED:
        if _is_of_another(order, attempt, doubt) and answer.provider_reference in ("", doubt.provider_reference):
            return None  # it says nothing of the one that is known here
        return Verdict(DoubtType.DENIED, moved_minor(order), order.currency, order.provider_reference)
    return None  # the order is still open: its own questions settle it first


def asked_again(
    order: ChannelOrder,
    attempt: ChannelAttempt | None,
    doubt: ChannelDoubt,
    answer: ProviderResult,
    now_ms: int,
    policy: ChannelPolicy,
) -> ChannelDoubt:
    """One rung further along the channel's ladder; from the last rung on for ever.

    Where another of the provider's orders than the known one has failed, the known one is asked about, now: what told
    of it may have been a lie, and the one that failed the only one there is.
    """
    ladder, asked = policy.query_ladder_ms, doubt.ask_count + 1
    has_failed = answer.status is _R.FAILED and answer.provider_reference == doubt.provider_reference
    if has_failed and order.state == _S.SUCCEEDED and _is_of_another(order, attempt, doubt):
        known = order.provider_reference
        told = said_again(doubt, f"{doubt.provider_reference} has failed, {known} is asked about") or doubt
        return msgspec.structs.replace(told, ask_count=asked, due_at_ms=now_ms, provider_reference=known)
    return msgspec.structs.replace(doubt, ask_count=asked, due_at_ms=now_ms + ladder[min(asked, len(ladder) - 1)])


def resolved(doubt: ChannelDoubt, verdict: Verdict, now_ms: int) -> ChannelDoubt:
    """The doubt as the verdict leaves it."""
    done = {"ask_count": doubt.ask_count + 1, "due_at_ms": None, "resolved_at_ms": now_ms}
    if verdict.confirmed is None:
        return DOUBT.move(doubt, DoubtState.DISMISSED, **done)
    return DOUBT.move(
        doubt,
        DoubtState.CONFIRMED,
        type=verdict.confirmed.value,
        amount_minor=verdict.amount_minor,
        currency=verdict.currency,
        provider_reference=verdict.provider_reference or doubt.provider_reference,
        **done,
    )


def bounded_minor(amount_minor: int) -> int:
    """An amount as a provider says it, which may be anything, as a column holds it."""
    return max(-(2**63), min(amount_minor, 2**63 - 1))


def _stands(
    order: ChannelOrder, attempt: ChannelAttempt | None, answer: ProviderResult, policy: ChannelPolicy
) -> Verdict | None:
    """The provider says that it has done it."""
    amount_minor = moved_minor(order) if answer.amount_minor is None else bounded_minor(answer.amount_minor)
    said = (amount_minor, answer.currency or order.currency, answer.provider_reference)
    if attempt is not None:
        # What was left counts as failed, whatever became of the order elsewhere.
        return Verdict(DoubtType.DUPLICATE if order.state == _S.SUCCEEDED else DoubtType.LATE, *said)
    if order.state == _S.FAILED:
        return Verdict(DoubtType.LATE, *said)
    mismatch = find_mismatch(order, answer, policy)
    if mismatch is not None and mismatch.feared is DoubtType.AMOUNT:
        return Verdict(DoubtType.AMOUNT, *said)
    if not CHANNEL_ORDER.is_terminal(order.state):
        return None  # its own questions settle it first
    return _DISMISSED if mismatch is None else Verdict(mismatch.feared, *said)


def _is_of_another(order: ChannelOrder, attempt: ChannelAttempt | None, doubt: ChannelDoubt) -> bool:
    """Whether the doubt is about another of the provider's orders than the one that is known here."""
    known = order.provider_reference
    return attempt is None and bool(known) and doubt.provider_reference not in ("", known)


def _is_gone_for_certain(doubt: ChannelDoubt, asked_at_ms: int, policy: ChannelPolicy) -> bool:
    """Whether "not found" is an answer yet: what was spoken of a moment ago may not be found at once."""
    after_ms = policy.not_found_certain_after_ms
    return after_ms is not None and asked_at_ms - doubt.opened_at_ms >= after_ms
