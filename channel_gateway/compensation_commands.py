"""The commands that carry repairs out: what a question brought, and what gives a stray charge back."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from channel_gateway import stray
from channel_gateway.channel_order import (
    CHANNEL_ORDER,
    ChannelOrderState,
    ChannelPolicy,
    DoubtType,
    Mismatch,
    ProviderResult,
    Source,
)
from channel_gateway.channel_order import ResultStatus as Status
from channel_gateway.doubt import DoubtState
from channel_gateway.doubt_commands import AnswerDoubt
from channel_gateway.hearing import Word, attempt_on, doubt_keys, hear, raise_doubt
from channel_gateway.tables import ChannelDoubt, ChannelOrder, Compensation
from paykit import compensation
from paykit.compensation import COMPENSATION, CompensationRow, CompensationState, Desk, Outcome
from paykit.context import pack
from paykit.store.command import Origin, Rows, Work
from paykit.store.row import Key, key

DESK = Desk("channel_gateway", Compensation, "channel.compensation_done")

_LOOK_AGAIN_MS = 1_000  # at a refund that has just been ordered


class TakeCompensation(compensation.Take):
    """Takes a repair."""

    result_type = Compensation
    desk = DESK
    kinds = frozenset({"QUERY", "REFUND"})


class EndOrAskLater(compensation.EndOrAskLater):
    """Ends a repair of which nothing came, or asks again later."""

    desk = DESK


class TakeAnswer(compensation.Step):
    """What the provider says of an order, asked for a repair: taken as any other answer, and the repair ends with it.

    An order that was open may be settled by it. One that is contradicted is in doubt then, which explains nothing: the
    doubt has a break of its own, and this one stays.
    """

    desk = DESK

    def __init__(
        self,
        origin: Origin,
        row: CompensationRow,
        order_id: str,
        policy: ChannelPolicy,
        answer: ProviderResult,
        asked_at_ms: int,
    ) -> None:
        super().__init__(origin, row)
        self.order_id = order_id
        self.word = Word(answer, Source.QUERY, policy, asked_at_ms)

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from super().reads(rows)
        yield key(ChannelOrder, self.order_id)
        yield from doubt_keys(self.order_id)

    def go_on(self, work: Work, row: CompensationRow) -> None:
        before = work.get(ChannelOrder, self.order_id)
        assert before is not None, "orders are never removed"
        known = {doubt.id for doubt in work.many(ChannelDoubt, "channel_order_id", self.order_id)}
        after = hear(work, before, self.word).order or before
        doubted = [d.id for d in work.many(ChannelDoubt, "channel_order_id", self.order_id) if d.id not in known]
        said = f"{before.channel} says {self.word.result.status.value}"
        is_settled = CHANNEL_ORDER.is_terminal(after.state)
        if doubted:
            detail = f"{said} of {before.id}, which is {after.state}: {doubted[0]}"
            compensation.end(work, DESK, row, Outcome.REFUSED, detail)
        elif is_settled and not CHANNEL_ORDER.is_terminal(before.state):
            detail = f"{before.id} is {after.state}, it was {before.state}"
            compensation.end(work, DESK, row, Outcome.DONE, detail, before.id)
        elif is_settled and self.word.result.status in (Status.SUCCEEDED, Status.FAILED):
            detail = f"{before.id} is {after.state} already; {said}"
            compensation.end(work, DESK, row, Outcome.NOTHING_TO_DO, detail)
        else:
            compensation.ask_later(work, DESK, row, said)


def is_of_another(order: ChannelOrder, request: compensation.Compensation) -> bool:
    """Whether a repair is about something else that the provider says it did for the order."""
    return request.provider_reference not in ("", order.provider_reference)


class DoubtAnother(compensation.Step):
    """The statement has a reference for an order that is not the one known here: a doubt, about which its channel is
    asked. What it stands by has a break of its own, whose repair closes this one too."""

    desk = DESK

    def __init__(self, origin: Origin, row: CompensationRow, order_id: str, policy: ChannelPolicy) -> None:
        super().__init__(origin, row)
        self.order_id, self.policy = order_id, policy

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from super().reads(rows)
        yield key(ChannelOrder, self.order_id)
        yield from doubt_keys(self.order_id)

    def go_on(self, work: Work, row: CompensationRow) -> None:
        order, request = work.get(ChannelOrder, self.order_id), compensation.request_of(row)
        assert order is not None, "orders are never removed"
        reference = request.provider_reference
        attempt = None if order.channel == self.policy.channel else attempt_on(work, order, self.policy.channel)
        if attempt is None and order.channel != self.policy.channel:
            compensation.end(work, DESK, row, Outcome.REFUSED, f"{order.id} was never on {self.policy.channel}")
            return
        word = Word(
            ProviderResult(
                status=Status.SUCCEEDED,
                provider_reference=reference,
                amount_minor=request.amount.amount_minor,
                currency=request.amount.currency_code,
            ),
            Source.STATEMENT,
            self.policy,
        )
        feared = DoubtType.LATE if order.state == ChannelOrderState.FAILED else DoubtType.DUPLICATE
        raise_doubt(work, order, attempt, word, Mismatch(f"a statement has {reference} for it", feared))
        detail = f"{self.policy.channel} is asked about {reference}, which its statement has for {order.id}"
        compensation.end(work, DESK, row, Outcome.REFUSED, detail)


class AnswerDoubtAsRepair(AnswerDoubt):
    """The provider's answer to a doubt, asked for a repair, which ends with it where it resolves the doubt."""

    def __init__(
        self,
        origin: Origin,
        row: CompensationRow,
        doubt: ChannelDoubt,
        policy: ChannelPolicy,
        answer: ProviderResult,
        asked_at_ms: int,
    ) -> None:
        super().__init__(origin, doubt, policy, answer, asked_at_ms)
        self.compensation_id = row.id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Compensation, self.compensation_id)
        yield from super().reads(rows)

    def decide(self, work: Work) -> ChannelDoubt:
        row, before = work.get(Compensation, self.compensation_id), work.get(ChannelDoubt, self.doubt_id)
        assert row is not None, "compensations are never removed"
        assert before is not None, "doubts are never removed"
        if row.state == CompensationState.ENDED:
            return before
        after = super().decide(work)
        if after.state == DoubtState.OPEN:
            compensation.ask_later(work, DESK, row, f"{after.channel} says {self.answer.status.value}")
        elif before.state == after.state:
            compensation.end(work, DESK, row, Outcome.NOTHING_TO_DO, f"{after.id} is {after.state} already")
        else:
            detail = f"{after.id} is {after.state} as {after.type}"
            compensation.end(work, DESK, row, Outcome.DONE, detail, after.id)
        return after


class GiveBack(compensation.Step):
    """Orders the refund of a stray charge that stands, as its provider has just said."""

    desk = DESK

    def __init__(self, origin: Origin, row: CompensationRow, doubt: ChannelDoubt) -> None:
        super().__init__(origin, row)
        self.doubt_id, self.order_id = doubt.id, doubt.channel_order_id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from super().reads(rows)
        yield key(ChannelOrder, self.order_id)
        yield key(ChannelOrder, self.order_id, "original_channel_order_id")
        yield key(ChannelDoubt, self.doubt_id)

    def go_on(self, work: Work, row: CompensationRow) -> None:
        doubt, order = work.get(ChannelDoubt, self.doubt_id), work.get(ChannelOrder, self.order_id)
        flaw = stray.flaw(doubt, order, work.many(ChannelOrder, "original_channel_order_id", self.order_id))
        if flaw is not None:
            compensation.end_or_ask_later(work, DESK, row, flaw.outcome, flaw.detail)
            return
        assert doubt is not None and order is not None  # noqa: PT018
        context = pack(replace(work.context, deadline_ms=None))
        made = stray.refund(work.new_id("chn"), row.repair_id, order, doubt, context, work.now_ms)
        work.insert(made, parent_id=row.repair_id, note=f"gives {doubt.id} back")
        waiting = COMPENSATION.move(
            row, CompensationState.WAITING, effect_id=made.id, ask_count=0, due_at_ms=work.now_ms + _LOOK_AGAIN_MS
        )
        work.update(waiting, parent_id=row.repair_id, note=made.id)


class LookAtRefund(compensation.Step):
    """Whether the refund that was ordered is over: the repair ends as it did. Its own questions go on meanwhile."""

    desk = DESK

    def __init__(self, origin: Origin, row: CompensationRow) -> None:
        super().__init__(origin, row)
        self.order_id = row.effect_id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from super().reads(rows)
        yield key(ChannelOrder, self.order_id)

    def go_on(self, work: Work, row: CompensationRow) -> None:
        order = work.get(ChannelOrder, self.order_id)
        assert order is not None, "orders are never removed"
        if order.state == ChannelOrderState.SUCCEEDED:
            detail = f"{order.id} gave {order.amount_minor} {order.currency} back by {order.channel}"
            compensation.end(work, DESK, row, Outcome.DONE, detail, order.id)
        elif order.state == ChannelOrderState.FAILED:
            compensation.end(work, DESK, row, Outcome.REFUSED, f"{order.id} failed: {order.failure_reason}")
        else:
            work.update(compensation.postponed(row, work.now_ms), audit=False)
