"""What may follow an earlier order: refunds of a charge or capture, captures and voids of an authorisation. Pure.

Whatever follows and has not failed counts as done, since it may still be: nothing is given back or taken twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from channel_gateway.channel_order import ChannelOrderKind, ChannelOrderState, moved_minor
from channel_gateway.tables import ChannelOrder
from paykit.errors import FailedPrecondition
from paykit.ids import is_id

REPAIR_PREFIX = "rpr"  # of the id that stands for the instruction where a repair orders something

_K = ChannelOrderKind
_REFUNDABLE = frozenset({_K.CHARGE.value, _K.CAPTURE.value})


def is_repair(order: ChannelOrder) -> bool:
    """Whether a repair ordered it, rather than an instruction: a stray charge that is given back."""
    return is_id(order.instruction_id, REPAIR_PREFIX)


def refundable_minor(original: ChannelOrder, followers: Sequence[ChannelOrder]) -> int:
    """What of a charge or capture is neither given back nor being given back."""
    return moved_minor(original) - _sum(_standing(followers, _K.REFUND))


def capturable_minor(authorization: ChannelOrder, followers: Sequence[ChannelOrder]) -> int:
    """What of an authorisation is neither taken nor being taken."""
    return authorization.amount_minor - _sum(_standing(followers, _K.CAPTURE))


def check_refund(
    original: ChannelOrder | None, followers: Sequence[ChannelOrder], wanted: ChannelOrder
) -> ChannelOrder:
    """The original, where ``wanted`` may give that much of it back; FailedPrecondition where it may not."""
    original = _succeeded(original, wanted, _REFUNDABLE, "ORIGINAL_NOT_REFUNDABLE", "charge or capture")
    left_minor = refundable_minor(original, followers)
    if wanted.amount_minor > left_minor:
        raise FailedPrecondition(
            f"of {original.kind} {original.id} {left_minor} is left to give back",
            reason="REFUND_EXCEEDS_CHARGE",
            subject=original.id,
            metadata={"refundable_minor": str(left_minor)},
        )
    return original


def check_capture(
    authorization: ChannelOrder | None, followers: Sequence[ChannelOrder], wanted: ChannelOrder, captures_max: int
) -> ChannelOrder:
    """As ``check_refund``, of a capture. ``captures_max``: how often the channel can capture one authorisation."""
    authorization = _open(authorization, followers, wanted)
    captures = _standing(followers, _K.CAPTURE)
    if len(captures) >= captures_max:
        raise FailedPrecondition(
            f"authorisation {authorization.id} has been captured {len(captures)} times",
            reason="CAPTURES_EXHAUSTED",
            subject=authorization.id,
        )
    return authorization


def check_void(
    authorization: ChannelOrder | None, followers: Sequence[ChannelOrder], wanted: ChannelOrder
) -> ChannelOrder:
    """As ``check_refund``, of a void: of the whole, or of what captures have left."""
    return _open(authorization, followers, wanted)


def _open(authorization: ChannelOrder | None, followers: Sequence[ChannelOrder], wanted: ChannelOrder) -> ChannelOrder:
    kinds = frozenset({_K.AUTHORIZE.value})
    found = _succeeded(authorization, wanted, kinds, "ORIGINAL_NOT_AUTHORIZED", "authorisation")
    if found.payment_id != wanted.payment_id:
        raise FailedPrecondition(
            f"{found.id} is an authorisation of another payment",
            reason="ORIGINAL_NOT_AUTHORIZED",
            subject=found.id,
        )
    if _standing(followers, _K.VOID):
        raise FailedPrecondition(
            f"authorisation {found.id} is given up", reason="AUTHORIZATION_VOIDED", subject=found.id
        )
    left_minor = capturable_minor(found, followers)
    if wanted.amount_minor > left_minor:
        raise FailedPrecondition(
            f"of authorisation {found.id} {left_minor} is left",
            reason="AUTHORIZATION_EXCEEDED",
            subject=found.id,
            metadata={"capturable_minor": str(left_minor)},
        )
    return found


def _succeeded(
    original: ChannelOrder | None, wanted: ChannelOrder, kinds: frozenset[str], reason: str, noun: str
) -> ChannelOrder:
    if (
        original is None
        or original.kind not in kinds
        or original.state != ChannelOrderState.SUCCEEDED
        or original.channel != wanted.channel
        or original.currency != wanted.currency
    ):
        subject = wanted.original_channel_order_id
        message = f"{subject} is not a succeeded {noun} of this channel and currency"
        raise FailedPrecondition(message, reason=reason, subject=subject)
    return original


def _standing(followers: Sequence[ChannelOrder], kind: ChannelOrderKind) -> list[ChannelOrder]:
    # What a repair gives back was never a part of what the order moved.
    mine = [order for order in followers if order.kind == kind and not is_repair(order)]
    return [order for order in mine if order.state != ChannelOrderState.FAILED]


def _sum(orders: Sequence[ChannelOrder]) -> int:
    return sum(order.amount_minor for order in orders)
