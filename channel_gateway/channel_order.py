"""What a channel order is and which ways it may take, what providers say of it, and what they are judged by. Data."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from channel_gateway.tables import ChannelOrder
from paykit.state_machine import StateMachine


class ChannelOrderKind(StrEnum):
    """What a provider is asked to do."""

    CHARGE = "CHARGE"
    REFUND = "REFUND"
    PAYOUT = "PAYOUT"
    AUTHORIZE = "AUTHORIZE"
    CAPTURE = "CAPTURE"
    VOID = "VOID"


# What goes back to, or goes on with, an earlier order: which, and by whose route. The others name a token.
FOLLOWING = frozenset({ChannelOrderKind.REFUND, ChannelOrderKind.CAPTURE, ChannelOrderKind.VOID})


class ChannelOrderState(StrEnum):
    """Where a channel order is in its life."""

    ACCEPTED = "ACCEPTED"
    SENDING = "SENDING"
    PENDING = "PENDING"
    UNKNOWN = "UNKNOWN"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


_S = ChannelOrderState
CHANNEL_ORDER = StateMachine(
    "channel_order",
    ChannelOrderState,
    _S.ACCEPTED,
    {
        # FAILED without sending: it could not be handed over for so long that it is given up.
        _S.ACCEPTED: frozenset({_S.SENDING, _S.FAILED}),
        # Back to ACCEPTED only where nothing is open: nothing can have left this machine, or another channel is tried.
        _S.SENDING: frozenset({_S.ACCEPTED, _S.PENDING, _S.UNKNOWN, _S.SUCCEEDED, _S.FAILED}),
        _S.PENDING: frozenset({_S.UNKNOWN, _S.SUCCEEDED, _S.FAILED}),
        _S.UNKNOWN: frozenset({_S.PENDING, _S.SUCCEEDED, _S.FAILED}),
        _S.SUCCEEDED: frozenset(),
        _S.FAILED: frozenset(),
    },
)


class NotificationState(StrEnum):
    """What became of a notification."""

    APPLIED = "APPLIED"  # it changed its order
    REDUNDANT = "REDUNDANT"  # it said what was known
    MISMATCHED = "MISMATCHED"  # it contradicts what is known
    ORPHANED = "ORPHANED"  # it names no order of ours


class ResultStatus(StrEnum):
    """What is known from one exchange with a provider."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"  # definitely not done
    PENDING = "PENDING"  # the provider has it and will say later
    UNKNOWN = "UNKNOWN"  # no usable answer: it may or may not have it
    NOT_SENT = "NOT_SENT"  # nothing can have left this machine
    NOT_FOUND = "NOT_FOUND"  # asked, the provider does not know it (yet)


class Source(StrEnum):
    """How a result came."""

    REPLY = "REPLY"
    NOTIFICATION = "NOTIFICATION"
    QUERY = "QUERY"
    STATEMENT = "STATEMENT"


class AttemptOutcome(StrEnum):
    """How an order came to nothing on a channel that it left."""

    FAILED = "FAILED"  # refused by the provider, for good
    NOT_SENT = "NOT_SENT"  # never left for it


class DoubtType(StrEnum):
    """What a provider's word makes one fear: see ``doubt``."""

    LATE = "LATE"  # done, and counts as failed
    DUPLICATE = "DUPLICATE"  # done, beside what another channel or order did
    DENIED = "DENIED"  # not done, and counts as done
    AMOUNT = "AMOUNT"  # another amount, currency or merchant


class ProviderResult(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's word on one order. ``amount_minor``, ``currency`` and ``merchant`` (its name for the account)
    where it repeats them."""

    status: ResultStatus
    provider_reference: str = ""
    failure_reason: str = ""
    amount_minor: int | None = None
    currency: str | None = None
    merchant: str | None = None


class ChannelPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What one channel's results are judged by: how long to wait for what, in milliseconds, and what may differ.

    ``channel`` and ``merchant_id`` (the provider's name for our account, empty where it is not compared) are filled in
    by ``ChannelSet``, which knows whose policy it is.
    """

    send_within_ms: int  # the call begins this soon after SENDING is committed, or not at all
    sending_ms: int  # a SENDING order older than this has no call under way any more
    query_ladder_ms: tuple[int, ...]
    not_found_certain_after_ms: int | None  # None: "not found" never becomes certain
    not_found_again_after_ms: tuple[int, ...] = ()  # how long after it has failed as not found an order is asked about
    resend_delay_ms: int
    resend_give_up_after_ms: int
    amount_may_differ: bool = False  # a charge may bring another amount than was asked for
    confirm_notifications: bool = False  # a notification settles nothing: it has the provider asked
    channel: str = ""
    merchant_id: str = ""


class Mismatch(msgspec.Struct, frozen=True):
    """A provider's word that contradicts what is known: what it is, for people, and what there is to fear."""

    evidence: str
    feared: DoubtType


SUCCEEDED_EVENT = "channel.order_succeeded"
FAILED_EVENT = "channel.order_failed"
UNKNOWN_EVENT = "channel.order_unknown"
MISMATCH_EVENT = "channel.mismatch_found"

PROVIDER_NOT_FOUND = "PROVIDER_NOT_FOUND"
PROVIDER_UNREACHABLE = "PROVIDER_UNREACHABLE"

# The process that accepted an order sends it at once; a timer looks for those it did not live to send.
HANDOVER_GRACE_MS = 5_000

OUTCOMES = {ResultStatus.SUCCEEDED: _S.SUCCEEDED, ResultStatus.FAILED: _S.FAILED}


def is_asked_about(order: ChannelOrder) -> bool:
    """Whether the provider is asked about the order when it is due."""
    return order.state in (_S.PENDING, _S.UNKNOWN) or (order.state == _S.FAILED and order.due_at_ms is not None)


def moved_minor(order: ChannelOrder) -> int:
    """What a SUCCEEDED order moved, or what an order that is under way shall move."""
    return order.settled_minor or order.amount_minor
