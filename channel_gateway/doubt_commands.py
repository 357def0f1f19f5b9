"""The changes there are to doubts. They are opened by ``hearing``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from channel_gateway import doubt as doubts
from channel_gateway import messages
from channel_gateway.channel_order import ChannelPolicy, ProviderResult
from channel_gateway.doubt import MISMATCH_RESOLVED_EVENT, DoubtState
from channel_gateway.hearing import attempt_on, doubt_keys
from channel_gateway.tables import ChannelDoubt, ChannelOrder
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key


class Asked(NamedTuple):
    """A doubt, and the order as the doubt's channel is asked about it."""

    doubt: ChannelDoubt
    question: ChannelOrder


class TakeDoubt(Command[Asked | None]):
    """Leases a due doubt to this process, which asks the provider; None where there is nothing to ask now."""

    def __init__(self, origin: Origin, row: ChannelDoubt, lease_ms: int) -> None:
        super().__init__(row.slot, origin)
        self.doubt_id, self.order_id, self.lease_ms = row.id, row.channel_order_id, lease_ms

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(ChannelOrder, self.order_id)
        yield key(ChannelDoubt, self.doubt_id)

    def decide(self, work: Work) -> Asked | None:
        doubt, order = work.get(ChannelDoubt, self.doubt_id), work.get(ChannelOrder, self.order_id)
        assert doubt is not None, "doubts are never removed"
        assert order is not None, "orders are never removed"
        if doubt.due_at_ms is None or doubt.due_at_ms > work.now_ms:
            return None
        leased = work.update(replace(doubt, due_at_ms=work.now_ms + self.lease_ms), audit=False)
        return Asked(leased, doubts.question(order, leased))


class AnswerDoubt(Command[ChannelDoubt]):
    """Takes the provider's answer to a doubt: it is resolved, or asked about again later. The order never changes."""

    def __init__(
        self, origin: Origin, doubt: ChannelDoubt, policy: ChannelPolicy, answer: ProviderResult, asked_at_ms: int
    ) -> None:
        super().__init__(slot_in(doubt.id), origin)
        self.doubt_id, self.order_id = doubt.id, doubt.channel_order_id
        self.policy, self.answer, self.asked_at_ms = policy, answer, asked_at_ms

    def reads(self, rows: Rows) -> Iterable[Key]:
        # The order first: its lock is what keeps others from opening further doubts.
        yield key(ChannelOrder, self.order_id)
        yield from doubt_keys(self.order_id)
        yield key(ChannelDoubt, self.doubt_id)

    def decide(self, work: Work) -> ChannelDoubt:
        doubt, order = work.get(ChannelDoubt, self.doubt_id), work.get(ChannelOrder, self.order_id)
        assert doubt is not None, "doubts are never removed"
        assert order is not None, "orders are never removed"
        if doubt.state != DoubtState.OPEN:
            return doubt  # another process has asked too
        attempt = None if doubt.channel == order.channel else attempt_on(work, order, doubt.channel)
        verdict = doubts.judge(order, attempt, doubt, self.answer, self.asked_at_ms, self.policy)
        if verdict is None:
            again = doubts.asked_again(order, attempt, doubt, self.answer, work.now_ms, self.policy)
            return work.update(again, audit=False)
        resolved = doubts.resolved(doubt, verdict, work.now_ms)
        note = f"{self.answer.status.value}, asked {resolved.ask_count}×"
        resolved = work.update(resolved, parent_id=order.id, note=note)
        work.publish(MISMATCH_RESOLVED_EVENT, messages.doubt_event(resolved, order))
        return resolved
