"""The breaks of doubts: one while a provider's word is in doubt, and once it stands by it the one of what is so.

The break of a doubt has the doubt's own id but for the prefix: whatever comes first, and however often, there is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from paykit.ids import is_id, slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from paymesh.channel.v1 import channel_order_pb2, doubt_pb2
from paymesh.event.v1 import events_pb2
from recon import matching
from recon.breaks import Subject, add_evidence, close_break, open_break, others_keys, others_of
from recon.matching import BreakState, BreakType, CloseReason, MatchKind
from recon.rules import Rules
from recon.tables import Break

# Which way money goes with an order, seen from us; what only reserves or releases moves none.
_DIRECTION = {
    channel_order_pb2.CHANNEL_ORDER_KIND_CHARGE: 1,
    channel_order_pb2.CHANNEL_ORDER_KIND_CAPTURE: 1,
    channel_order_pb2.CHANNEL_ORDER_KIND_REFUND: -1,
    channel_order_pb2.CHANNEL_ORDER_KIND_PAYOUT: -1,
}
_TYPES = {
    doubt_pb2.DOUBT_TYPE_LATE: BreakType.LATE,
    doubt_pb2.DOUBT_TYPE_DUPLICATE: BreakType.DUPLICATE,
    doubt_pb2.DOUBT_TYPE_DENIED: BreakType.STATUS_MISMATCH,
    doubt_pb2.DOUBT_TYPE_AMOUNT: BreakType.AMOUNT_MISMATCH,
}


class Doubted(NamedTuple):
    """A provider's word in doubt: what it is about, what was said, and what is at risk meanwhile."""

    doubt_id: str
    subject: Subject
    evidence: str
    risk: tuple[int, str]  # minor units, currency


class Confirmed(NamedTuple):
    """What is so, in the place of a doubt."""

    wrong: BreakType
    subject: Subject
    evidence: str
    risk: tuple[int, str]


def doubted(event: events_pb2.ChannelMismatchEvent) -> Doubted:
    """What channel.mismatch_found says. ValueError where it names ids of no form."""
    order = event.channel_order
    subject = _subject(order, event.doubt_id, event.channel)
    return Doubted(event.doubt_id, subject, event.evidence, (order.amount.amount_minor, order.amount.currency_code))


def resolved(event: events_pb2.ChannelDoubtEvent) -> tuple[Doubted, Confirmed | None]:
    """What channel.mismatch_resolved says: the doubt, and what is so where it was confirmed. ValueError as above."""
    doubt, order = event.doubt, event.channel_order
    subject = _subject(order, doubt.doubt_id, doubt.channel)
    found = Doubted(
        doubt.doubt_id, subject, doubt.evidence, (order.amount.amount_minor, order.amount.currency_code)
    )  # fmt: skip
    if doubt.state != doubt_pb2.DOUBT_STATE_CONFIRMED:
        return found, None
    wrong = _TYPES[doubt.type]
    said = (doubt.amount.amount_minor, doubt.amount.currency_code)
    evidence = f"{doubt.evidence}\n{doubt.doubt_id} confirmed by {doubt.channel}: {doubt.provider_reference}"
    known_minor = order.settled_minor or order.amount.amount_minor
    if wrong is BreakType.AMOUNT_MISMATCH and said[1] != order.amount.currency_code:
        return found, Confirmed(BreakType.CURRENCY_MISMATCH, subject, evidence, said)
    more_minor = {BreakType.STATUS_MISMATCH: -said[0], BreakType.AMOUNT_MISMATCH: said[0] - known_minor}.get(wrong, 0)
    difference_minor = more_minor * _DIRECTION.get(order.kind, 0)
    # Of the right amount for a wrong merchant all is at risk.
    risk = (abs(more_minor) or said[0] if wrong is BreakType.AMOUNT_MISMATCH else said[0], said[1])
    return found, Confirmed(wrong, subject._replace(difference_minor=difference_minor), evidence, risk)


def _subject(order: channel_order_pb2.ChannelOrder, doubt_id: str, channel: str) -> Subject:
    is_ordered = is_id(order.instruction_id, "ins") or is_id(order.instruction_id, "rpr")
    if not (is_id(doubt_id, "dbt") and is_ordered and is_id(order.payment_id, "pay")):
        raise ValueError(f"doubt {doubt_id[:40]!r} names no instruction and payment")
    kind = MatchKind.PAY_CHANNEL
    return Subject(
        slot=slot_in(doubt_id),
        biz_id=order.biz_id,
        kind=kind.value,
        match_key=matching.match_key(kind, order.instruction_id),
        payment_id=order.payment_id,
        channel=channel,
        channel_order_id=order.channel_order_id,
        subject_id=doubt_id,
    )


class _DoubtCommand(Command[None]):
    """The base of both: the break of one doubt."""

    def __init__(self, origin: Origin, found: Doubted, rules: Rules) -> None:
        super().__init__(slot_in(found.doubt_id), origin)
        self.doubted, self.rules = found, rules
        self.break_id = "brk" + found.doubt_id[3:]

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Break, self.break_id)

    def break_of(self, work: Work) -> Break:
        """The doubt's break, opened where it is not there yet."""
        found, known = self.doubted, work.get(Break, self.break_id)
        if known is not None:
            return known
        wrong = BreakType.NOTIFICATION_MISMATCH
        return open_break(work, found.subject, wrong, found.risk, found.evidence, self.rules, self.break_id)


class TakeDoubt(_DoubtCommand):
    """A provider contradicts what was sent or settled: a break at once, until it has explained itself."""

    def decide(self, work: Work) -> None:
        broken = self.break_of(work)
        if broken.state == BreakState.OPEN:
            add_evidence(work, broken, self.doubted.evidence)


class ResolveDoubt(_DoubtCommand):
    """It has: the break is closed, and where the provider stands by its word another one says what is so."""

    def __init__(self, origin: Origin, found: Doubted, confirmed: Confirmed | None, rules: Rules) -> None:
        super().__init__(origin, found, rules)
        self.confirmed = confirmed

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from super().reads(rows)
        yield from others_keys(rows, self.doubted.subject.channel_order_id)

    def decide(self, work: Work) -> None:
        known, so = work.get(Break, self.break_id), self.confirmed
        # A person may have closed it; what is so is at risk all the same, and told once, for a doubt ends once.
        if known is None or known.state == BreakState.OPEN:
            reason = CloseReason.DISMISSED if so is None else CloseReason.SUPERSEDED
            close_break(work, self.break_of(work), reason.value)
        if so is not None:
            others = others_of(work, so.subject.channel_order_id)
            open_break(work, so.subject, so.wrong, so.risk, so.evidence, self.rules, others=others)
