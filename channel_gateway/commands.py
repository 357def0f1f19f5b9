"""The changes there are to channel orders, one command each."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from channel_gateway import messages
from channel_gateway.channel_order import (
    CHANNEL_ORDER,
    HANDOVER_GRACE_MS,
    MISMATCH_EVENT,
    ChannelOrderKind,
    ChannelOrderState,
    ChannelPolicy,
    NotificationState,
    ProviderResult,
    Source,
)
from channel_gateway.channels.base import ReceivedNotification
from channel_gateway.hearing import Heard, Word, carry_out, hear, order_keys
from channel_gateway.merchants import named_merchant
from channel_gateway.originals import check_capture, check_refund, check_void
from channel_gateway.progress import lose, start_sending
from channel_gateway.routing import Onward, stored
from channel_gateway.tables import ChannelOrder, Notification
from paykit.context import pack
from paykit.errors import AlreadyExists, FailedPrecondition
from paykit.ids import slot_in
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key

_SAME = (
    "kind", "amount_minor", "currency", "instruction_id", "payment_id", "token", "original_channel_order_id",
)  # fmt: skip


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for, its fields checked. Empty where a field does not apply to the kind.

    ``channel`` is the one that was chosen where there were ``candidates``; ``onward`` where it may go from there.
    """

    kind: ChannelOrderKind
    channel: str
    amount_minor: int
    currency: str
    instruction_id: str
    payment_id: str
    token: str
    original_channel_order_id: str
    candidates: frozenset[str] = frozenset()
    onward: Onward | None = None

    def is_same_as(self, order: ChannelOrder) -> bool:
        """Whether ``order`` is what this asks for: of several candidates another may have been chosen then."""
        channels = self.candidates or {self.channel}
        return order.channel in channels and all(getattr(order, field) == getattr(self, field) for field in _SAME)


class SubmitOrder(Command[ChannelOrder]):
    """Makes an order durable. One per instruction: the same one asked for again is found, another is refused."""

    result_type = ChannelOrder

    def __init__(
        self,
        origin: Origin,
        submission: Submission,
        operations: frozenset[ChannelOrderKind],
        captures_max: int = 1,
        refusal: FailedPrecondition | None = None,
    ) -> None:
        """``operations`` and ``captures_max`` (of one authorisation) are what the channel declares.

        ``refusal``: why no channel carries it now; what was accepted before is answered all the same.
        """
        super().__init__(slot_in(submission.instruction_id), origin)
        self.submission = submission
        self.operations = operations
        self.captures_max = captures_max
        self.refusal = refusal

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(ChannelOrder, self.submission.instruction_id, "instruction_id")
        original_id = self.submission.original_channel_order_id
        if original_id:
            yield key(ChannelOrder, original_id)
            yield key(ChannelOrder, original_id, "original_channel_order_id")

    def decide(self, work: Work) -> ChannelOrder:
        wanted = self.submission
        existing = work.get(ChannelOrder, wanted.instruction_id, "instruction_id")
        if existing is not None:
            if wanted.is_same_as(existing):
                return existing
            raise AlreadyExists(
                f"instruction {wanted.instruction_id} has another channel order",
                reason="INSTRUCTION_ID_REUSED",
                metadata={"channel_order_id": existing.id},
            )
        if self.refusal is not None:
            raise self.refusal
        if wanted.kind not in self.operations:
            raise FailedPrecondition(
                f"channel {wanted.channel} does not do {wanted.kind.value}",
                reason="OPERATION_UNSUPPORTED",
                subject=wanted.channel,
            )
        context = msgspec.structs.replace(work.context, deadline_ms=None)  # timers have no deadline
        order = ChannelOrder(
            id=work.new_id("chn"),
            slot=self.slot,
            biz_id=context.biz_id,
            kind=wanted.kind.value,
            state=CHANNEL_ORDER.initial.value,
            channel=wanted.channel,
            amount_minor=wanted.amount_minor,
            currency=wanted.currency,
            instruction_id=wanted.instruction_id,
            payment_id=wanted.payment_id,
            original_channel_order_id=wanted.original_channel_order_id,
            original_provider_reference="",
            token=wanted.token,
            provider_reference="",
            failure_reason="",
            query_count=0,
            send_count=0,
            sent_at_ms=None,
            due_at_ms=work.now_ms + HANDOVER_GRACE_MS,
            context=pack(context),
            created_at_ms=work.now_ms,
            finished_at_ms=None,
            merchant=named_merchant(context),
            route=stored(wanted.onward),
        )
        if wanted.original_channel_order_id:
            reference = self._original(work, order).provider_reference
            order = msgspec.structs.replace(order, original_provider_reference=reference)
        return work.insert(order, parent_id=wanted.instruction_id)

    def _original(self, work: Work, order: ChannelOrder) -> ChannelOrder:
        """The order that ``order`` goes back to or goes on with; FailedPrecondition where it must not."""
        original_id = order.original_channel_order_id
        original = work.get(ChannelOrder, original_id)
        followers = work.many(ChannelOrder, "original_channel_order_id", original_id)
        if order.kind == ChannelOrderKind.CAPTURE:
            return check_capture(original, followers, order, self.captures_max)
        if order.kind == ChannelOrderKind.VOID:
            return check_void(original, followers, order)
        return check_refund(original, followers, order)


class OrderCommand(Command[ChannelOrder | None]):
    """The base of commands on one existing order."""

    def __init__(self, origin: Origin, channel_order_id: str, policy: ChannelPolicy) -> None:
        super().__init__(slot_in(channel_order_id), origin)
        self.channel_order_id = channel_order_id
        self.policy = policy

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(ChannelOrder, self.channel_order_id)

    def order(self, work: Work) -> ChannelOrder:
        """The order, which exists: this process read it, or made it."""
        order = work.get(ChannelOrder, self.channel_order_id)
        assert order is not None, f"{self.channel_order_id} is gone"
        return order

    def is_elsewhere(self, order: ChannelOrder) -> bool:
        """Whether it has gone on to another channel since it was read: then this one has no business with it."""
        return order.channel != self.policy.channel


class MarkSending(OrderCommand):
    """Committed before the provider is called, so that no call is ever forgotten. None: somebody else sends it."""

    def decide(self, work: Work) -> ChannelOrder | None:
        order = self.order(work)
        sending = None if self.is_elsewhere(order) else start_sending(order, work.now_ms, self.policy)
        return None if sending is None else work.update(sending)


class TakeDue(OrderCommand):
    """What a timer does with an order that is due: leases it to this process, or gives its lost call up.

    Returns the order to send or to ask about; None where there is nothing to do now.
    """

    def __init__(self, origin: Origin, channel_order_id: str, policy: ChannelPolicy, lease_ms: int) -> None:
        super().__init__(origin, channel_order_id, policy)
        self.lease_ms = lease_ms

    def decide(self, work: Work) -> ChannelOrder | None:
        order = self.order(work)
        if self.is_elsewhere(order) or order.due_at_ms is None or order.due_at_ms > work.now_ms:
            return None
        if order.state == ChannelOrderState.SENDING:
            carry_out(work, order, lose(order, work.now_ms, self.policy))
            return None
        return work.update(msgspec.structs.replace(order, due_at_ms=work.now_ms + self.lease_ms))


class ApplyResult(OrderCommand):
    """Takes the provider's word from a reply or a query. Returns the order as it then is."""

    def __init__(
        self,
        origin: Origin,
        channel_order_id: str,
        policy: ChannelPolicy,
        result: ProviderResult,
        source: Source,
        asked_at_ms: int | None = None,
        avoid: Collection[str] = (),
    ) -> None:
        """``asked_at_ms``: for a query, the time (Unix ms) before it was made. ``avoid``: channels not well now."""
        super().__init__(origin, channel_order_id, policy)
        self.word = Word(result, source, policy, asked_at_ms, avoid)

    def reads(self, rows: Rows) -> Iterable[Key]:
        return order_keys(rows, self.channel_order_id, self.word)

    def decide(self, work: Work) -> ChannelOrder | None:
        order = self.order(work)
        return hear(work, order, self.word).order or order


class TakeNotification(Command[NotificationState]):
    """Stores a verified notification and applies it, in one transaction; the provider is answered after it."""

    result_type = NotificationState

    def __init__(
        self, origin: Origin, channel: str, policy: ChannelPolicy, received: ReceivedNotification, body: bytes
    ) -> None:
        super().__init__(slot_in(received.channel_order_id), origin)
        self.channel = channel
        self.policy = policy
        self.received = received
        self.body = body

    @property
    def notification_key(self) -> str:
        """What makes it the same notification again."""
        return f"{self.channel}/{self.received.notification_id}"

    @property
    def word(self) -> Word:
        """What it says."""
        return Word(self.received.result, Source.NOTIFICATION, self.policy)

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from order_keys(rows, self.received.channel_order_id, self.word)
        yield key(Notification, self.notification_key, "notification_key")

    def decide(self, work: Work) -> NotificationState:
        known = work.get(Notification, self.notification_key, "notification_key")
        if known is not None:
            return NotificationState(known.state)
        received = self.received
        order = work.get(ChannelOrder, received.channel_order_id)
        heard = Heard(None) if order is None else hear(work, order, self.word)
        if heard.order is None:
            state = NotificationState.ORPHANED
            evidence = f"notified {received.result.status.value} of an order that does not exist"
            work.publish(MISMATCH_EVENT, messages.orphan_event(received.channel_order_id, self.channel, evidence))
        elif heard.is_mismatch:
            state = NotificationState.MISMATCHED
        else:
            state = NotificationState.APPLIED if heard.is_changed else NotificationState.REDUNDANT
        work.insert(
            Notification(
                id=work.new_id("ntf"),
                slot=self.slot,
                biz_id=work.context.biz_id,
                notification_key=self.notification_key,
                channel=self.channel,
                channel_order_id=received.channel_order_id,
                state=state.value,
                body=self.body,
                received_at_ms=work.now_ms,
            ),
            parent_id=received.channel_order_id,
        )
        return state
