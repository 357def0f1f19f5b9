"""Stray charges: what a provider has taken that nothing here counts on, and what must be so to give it back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from channel_gateway.channel_order import (
    CHANNEL_ORDER,
    HANDOVER_GRACE_MS,
    ChannelOrderKind,
    ChannelOrderState,
    DoubtType,
    ProviderResult,
    ResultStatus,
)
from channel_gateway.doubt import DoubtState
from channel_gateway.originals import is_repair
from channel_gateway.tables import ChannelDoubt, ChannelOrder
from paykit.compensation import Outcome

_STRAY = frozenset({DoubtType.LATE.value, DoubtType.DUPLICATE.value})
_CHARGES = frozenset({ChannelOrderKind.CHARGE.value, ChannelOrderKind.CAPTURE.value})


class Verdict(NamedTuple):
    """Why a stray charge is not given back now: for good (``outcome``), or until it is asked about again (None)."""

    outcome: Outcome | None
    detail: str


def flaw(doubt: ChannelDoubt | None, order: ChannelOrder | None, followers: Sequence[ChannelOrder]) -> Verdict | None:
    """What speaks against giving back what ``doubt`` says was taken for ``order``; None where nothing does.

    ``followers``: what gives back or goes on with the order, repairs among them.
    """
    if doubt is None or order is None:
        return Verdict(Outcome.NOTHING_TO_DO, "there is no such stray charge")
    if doubt.state == DoubtState.DISMISSED:
        return Verdict(Outcome.NOTHING_TO_DO, f"{doubt.id} is dismissed: the provider says what is known here")
    if doubt.state != DoubtState.CONFIRMED:
        return Verdict(None, f"{doubt.id} is not confirmed yet")
    if doubt.type not in _STRAY or order.kind not in _CHARGES:
        return Verdict(Outcome.REFUSED, f"{doubt.id} is {doubt.type} of a {order.kind}: there is nothing to give back")
    if doubt.amount_minor <= 0:
        return Verdict(Outcome.REFUSED, f"{doubt.id} is over {doubt.amount_minor}")
    for other in followers:
        if _gives_back(other, doubt) and other.state != ChannelOrderState.FAILED:
            return Verdict(Outcome.NOTHING_TO_DO, f"{other.id} gives it back: {other.state}")
    return None


def _gives_back(other: ChannelOrder, doubt: ChannelDoubt) -> bool:
    same = (other.channel, other.original_provider_reference) == (doubt.channel, doubt.provider_reference)
    return is_repair(other) and other.kind == ChannelOrderKind.REFUND and same


def stands(doubt: ChannelDoubt, answer: ProviderResult | None) -> Verdict | None:
    """What speaks against it in the provider's answer, asked just now; None where the charge stands as it was."""
    if answer is None:
        return Verdict(None, f"{doubt.channel} has no room for a question now")
    if answer.status is ResultStatus.FAILED:
        return Verdict(Outcome.NOTHING_TO_DO, f"{doubt.channel} says now that it did not take it")
    if answer.status is not ResultStatus.SUCCEEDED:
        return Verdict(None, f"{doubt.channel} says {answer.status.value}")
    said = (
        doubt.amount_minor if answer.amount_minor is None else answer.amount_minor,
        answer.currency or doubt.currency,
        answer.provider_reference or doubt.provider_reference,
    )
    if said != (doubt.amount_minor, doubt.currency, doubt.provider_reference):
        return Verdict(Outcome.REFUSED, f"{doubt.channel} says now {said[0]} {said[1]}, reference {said[2]}")
    return None


def refund(
    id_: str, repair_id: str, order: ChannelOrder, doubt: ChannelDoubt, context: bytes, now_ms: int
) -> ChannelOrder:
    """The order that gives a stray charge back, on the channel that took it. The repair stands for its instruction."""
    return msgspec.structs.replace(
        order,
        id=id_,
        version=1,
        kind=ChannelOrderKind.REFUND.value,
        state=CHANNEL_ORDER.initial.value,
        channel=doubt.channel,
        amount_minor=doubt.amount_minor,
        currency=doubt.currency,
        instruction_id=repair_id,
        original_channel_order_id=order.id,
        original_provider_reference=doubt.provider_reference,
        token="",
        provider_reference="",
        failure_reason="",
        query_count=0,
        send_count=0,
        sent_at_ms=None,
        due_at_ms=now_ms + HANDOVER_GRACE_MS,
        context=context,
        created_at_ms=now_ms,
        finished_at_ms=None,
        settled_minor=0,
        attempt_no=1,
        route=None,
    )
