"""What a provider's word does, inside the transaction that takes it: to its order, or against it as a doubt.

A word belongs to a channel. Where the order has gone on from that channel to another, it speaks of what was left
there, and touches nothing but doubts. Doubts and attempts are read only where a word calls for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from channel_gateway import doubt as doubts
from channel_gateway import messages
from channel_gateway.channel_order import MISMATCH_EVENT, ChannelPolicy, Mismatch, ProviderResult, Source
from channel_gateway.doubt import DoubtState
from channel_gateway.mismatch import find_mismatch
from channel_gateway.progress import Applied, Left, apply_result
from channel_gateway.tables import ChannelAttempt, ChannelDoubt, ChannelOrder
from paykit.store.command import Rows, Work
from paykit.store.row import Key, key


class Word(NamedTuple):
    """What a provider said, how it came, and by whose policy it is judged."""

    result: ProviderResult
    source: Source
    policy: ChannelPolicy
    asked_at_ms: int | None = None  # of a query: when it was begun
    avoid: Collection[str] = ()  # channels that are not well


class Heard(NamedTuple):
    """The order as it then is; None where the channel never had it. Whether it changed, and was contradicted."""

    order: ChannelOrder | None
    is_changed: bool = False
    is_mismatch: bool = False


def order_keys(rows: Rows, order_id: str, word: Word) -> Iterable[Key]:
    """The rows that ``hear`` needs."""
    yield key(ChannelOrder, order_id)
    order = rows.get(ChannelOrder, order_id)
    if order is not None and _calls_for_more(order, word):
        yield from doubt_keys(order_id)


def doubt_keys(order_id: str) -> Iterable[Key]:
    """Everything about an order beside itself."""
    yield key(ChannelDoubt, order_id, "channel_order_id")
    yield key(ChannelAttempt, order_id, "channel_order_id")


def _calls_for_more(order: ChannelOrder, word: Word) -> bool:
    if order.channel != word.policy.channel:
        return True
    return find_mismatch(order, word.result, word.policy) is not None


def hear(work: Work, order: ChannelOrder, word: Word) -> Heard:
    """Takes a word in: stores and announces what it makes of its order."""
    if order.channel != word.policy.channel:
        return _hear_of_left(work, order, word)
    applied = apply_result(
        order, word.result, word.source, work.now_ms, word.policy, word.asked_at_ms, avoid=word.avoid
    )
    after = carry_out(work, order, applied)
    if applied.mismatch is not None:
        raise_doubt(work, after, None, word, applied.mismatch)
    return Heard(after, applied.order is not None, applied.mismatch is not None)


def carry_out(work: Work, order: ChannelOrder, applied: Applied) -> ChannelOrder:
    """Stores and announces what became of an order."""
    if applied.left is not None:
        leave(work, order, applied.left)
    if applied.order is not None:
        note = "" if applied.mismatch is None else applied.mismatch.evidence
        if applied.left is not None:
            note = f"on to {applied.order.channel}: {applied.left.failure_reason}"
        order = work.update(applied.order, note=note)
    if applied.announce:
        work.publish(applied.announce, messages.channel_order_event(order))
    return order


def leave(work: Work, order: ChannelOrder, left: Left) -> ChannelAttempt:
    """Keeps what an order leaves behind on its channel."""
    attempt = ChannelAttempt(
        id=work.new_id("cat"),
        slot=order.slot,
        biz_id=order.biz_id,
        attempt_key=f"{order.id}/{order.attempt_no}",
        channel_order_id=order.id,
        attempt_no=order.attempt_no,
        channel=order.channel,
        outcome=left.outcome.value,
        failure_reason=left.failure_reason,
        provider_reference=left.provider_reference,
        sent_at_ms=order.sent_at_ms,
        left_at_ms=work.now_ms,
    )
    note = f"{order.channel} {left.outcome}: {left.failure_reason}"
    return work.insert(attempt, parent_id=order.id, note=note)


def _hear_of_left(work: Work, order: ChannelOrder, word: Word) -> Heard:
    attempt = attempt_on(work, order, word.policy.channel)
    if attempt is None:
        return Heard(None)
    mismatch = doubts.left_mismatch(attempt, order, word.result)
    if mismatch is not None:
        raise_doubt(work, order, attempt, word, mismatch)
    return Heard(order, False, mismatch is not None)


def attempt_on(work: Work, order: ChannelOrder, channel: str) -> ChannelAttempt | None:
    """What the order left on a channel; None where it was never there."""
    attempts = work.many(ChannelAttempt, "channel_order_id", order.id)
    return next((attempt for attempt in attempts if attempt.channel == channel), None)


def raise_doubt(
    work: Work, order: ChannelOrder, attempt: ChannelAttempt | None, word: Word, mismatch: Mismatch
) -> None:
    """Opens a doubt, or adds to the open one; what is confirmed already, or said already, is not told again."""
    channel = word.policy.channel
    known = [row for row in work.many(ChannelDoubt, "channel_order_id", order.id) if row.channel == channel]
    standing = _open_one(known)
    if standing is not None:
        more = doubts.said_again(standing, mismatch.evidence)
        if more is None:
            return
        doubt = work.update(more, note="contradicted again")
    elif any(doubts.is_known(row, word.result, mismatch) for row in known):
        return
    else:
        wait_ms = 0 if doubts.is_askable(order, attempt) else word.policy.query_ladder_ms[0]
        opened = doubts.opened(
            work.new_id("dbt"),
            len(known) + 1,
            order,
            attempt,
            word.result,
            mismatch,
            due_at_ms=work.now_ms + wait_ms,
            now_ms=work.now_ms,
        )
        doubt = work.insert(opened, parent_id=order.id, note=f"{opened.type}: {mismatch.evidence}")
    work.publish(MISMATCH_EVENT, messages.mismatch_event(order, mismatch.evidence, doubt))


def _open_one(known: Sequence[ChannelDoubt]) -> ChannelDoubt | None:
    return next((row for row in known if row.state == DoubtState.OPEN), None)
