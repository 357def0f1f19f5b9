"""Where a provider's word contradicts what is known of an order. Pure."""

from __future__ import annotations

from channel_gateway.channel_order import (
    CHANNEL_ORDER,
    OUTCOMES,
    ChannelOrderKind,
    ChannelOrderState,
    ChannelPolicy,
    DoubtType,
    Mismatch,
    ProviderResult,
    ResultStatus,
    moved_minor,
)
from channel_gateway.tables import ChannelOrder

_AMOUNT_MINOR_MAX = 2**63 - 1
_S = ChannelOrderState


def find_mismatch(order: ChannelOrder, result: ProviderResult, policy: ChannelPolicy) -> Mismatch | None:
    """Why the provider's word contradicts what is known; None where it does not."""
    status, said = result.status, _contradicted_terms(order, result, policy)
    if said:
        return Mismatch(said, DoubtType.AMOUNT)
    if result.provider_reference and order.provider_reference not in ("", result.provider_reference):
        evidence = f"reference {result.provider_reference} instead of {order.provider_reference}"
        return Mismatch(evidence, DoubtType.DUPLICATE)
    if status in OUTCOMES and CHANNEL_ORDER.is_terminal(order.state) and order.state != OUTCOMES[status]:
        feared = DoubtType.LATE if order.state == _S.FAILED else DoubtType.DENIED
        return Mismatch(f"{status.value} after {order.state}", feared)
    if status in OUTCOMES and order.state == _S.ACCEPTED:
        return Mismatch(f"{status.value} before it was sent", DoubtType.LATE)
    was_there = order.state == _S.PENDING or bool(order.provider_reference)
    if status is ResultStatus.NOT_FOUND and was_there and not CHANNEL_ORDER.is_terminal(order.state):
        return Mismatch("not found although the provider had it", DoubtType.DENIED)
    return None


def _contradicted_terms(order: ChannelOrder, result: ProviderResult, policy: ChannelPolicy) -> str:
    """What of amount, currency and merchant is not what was sent, for people; empty where all is."""
    expected_minor = _expected_minor(order, result, policy)
    if result.amount_minor is not None and result.amount_minor != expected_minor:
        return f"amount {result.amount_minor} instead of {expected_minor}"
    if result.currency is not None and result.currency != order.currency:
        return f"currency {result.currency} instead of {order.currency}"
    if result.merchant is not None and policy.merchant_id and result.merchant != policy.merchant_id:
        return f"merchant {result.merchant[:64]} instead of {policy.merchant_id}"
    return ""


def _expected_minor(order: ChannelOrder, result: ProviderResult, policy: ChannelPolicy) -> int:
    """The amount that a result has to repeat. Until an order has succeeded, that is what was asked for."""
    if result.status is not ResultStatus.SUCCEEDED:
        return order.amount_minor
    if order.state == _S.SUCCEEDED:
        return moved_minor(order)
    said_minor = result.amount_minor
    may_differ = policy.amount_may_differ and order.kind == ChannelOrderKind.CHARGE and order.state != _S.FAILED
    if may_differ and said_minor is not None and 0 < said_minor <= _AMOUNT_MINOR_MAX:
        return said_minor
    return order.amount_minor
