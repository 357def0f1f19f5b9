"""2, of channels: what orders left behind, what is in doubt, and that nobody keeps a stray charge unknown."""

from __future__ import annotations

from channel_gateway.doubt import DoubtState
from channel_gateway.sandbox.client import BookEntry
from channel_gateway.tables import ChannelAttempt, ChannelDoubt, ChannelOrder
from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.strays import Strays
from meshctl.invariants.world import Slice, grouped
from recon.tables import Break

_GIVES_BACK = ("refund", "void")


def strays_are_known(world: Slice, tally: Tally) -> None:
    """What a provider has done that no order counts on is in doubt, in an open break, or given back."""
    open_doubts = {row.channel_order_id for row in world.rows(ChannelDoubt) if row.state == DoubtState.OPEN}
    strays = Strays(world)
    returned: dict[tuple[str, str], int] = {}
    for entry in world.rows(BookEntry):
        if entry.kind in _GIVES_BACK and entry.status == "succeeded":
            key = entry.original_reference, entry.account
            returned[key] = returned.get(key, 0) + entry.amount_minor
    for entry in world.rows(BookEntry):
        if entry.status != "succeeded" or not strays.has(entry):
            continue
        tally.count()
        order = world.orders.get(entry.reference)
        ids = (entry.reference,) if order is None else (order.id, order.instruction_id, order.payment_id)
        is_back = returned.get((entry.reference, entry.account), 0) >= entry.amount_minor
        is_known = is_back or entry.reference in open_doubts or world.may_lag(entry.created_at_ms, *ids)
        tally.expect(is_known, entry.reference, f"{entry.provider_reference} is stray, and nobody gives it back")


def attempts_are_kept(world: Slice, tally: Tally) -> None:
    """An order has left as many channels as it counts, each once, and is on none of them."""
    attempts = grouped(world.rows(ChannelAttempt), "channel_order_id")
    for order in world.rows(ChannelOrder):
        left = attempts.pop(order.id, [])
        tally.count(len(left))
        numbers = sorted(attempt.attempt_no for attempt in left)
        tally.expect(
            numbers == list(range(1, order.attempt_no)), order.id, f"is on no. {order.attempt_no}, left {numbers}"
        )
        channels = [attempt.channel for attempt in left] + [order.channel]
        tally.expect(len(set(channels)) == len(channels), order.id, f"was on a channel twice: {channels}")
    for order_id in attempts:
        tally.violate(order_id, "has left channels, and does not exist")


def doubts_are_answered_for(world: Slice, tally: Tally) -> None:
    """A doubt is about an order of ours and one of its channels, one of which is open at a time; it is due while it is
    OPEN, and recon has a break for it."""
    breaks = {row.id for row in world.rows(Break)}
    subjects = {row.subject_id for row in world.rows(Break) if row.type != "NOTIFICATION_MISMATCH"}
    attempts = grouped(world.rows(ChannelAttempt), "channel_order_id")
    for order_id, doubts in grouped(world.rows(ChannelDoubt), "channel_order_id").items():
        order = world.orders.get(order_id)
        if order is None:
            tally.violate(order_id, "is doubted, and does not exist")
            continue
        open_ones = [doubt.channel for doubt in doubts if doubt.state == DoubtState.OPEN]
        tally.expect(len(set(open_ones)) == len(open_ones), order_id, f"is doubted twice on a channel: {open_ones}")
        channels = {order.channel, *(attempt.channel for attempt in attempts.get(order_id, []))}
        for doubt in doubts:
            tally.count()
            tally.expect(doubt.channel in channels, doubt.id, f"is about {doubt.channel}, the order was on {channels}")
            is_open = doubt.state == DoubtState.OPEN
            is_due = is_open == (doubt.due_at_ms is not None) == (doubt.resolved_at_ms is None)
            tally.expect(is_due, doubt.id, f"{doubt.state}, due at {doubt.due_at_ms}")
            known = f"brk{doubt.id[3:]}" in breaks or world.may_lag(doubt.opened_at_ms, doubt.id)
            tally.expect(known, doubt.id, "has no break in recon")
            if doubt.state == DoubtState.CONFIRMED:
                told = doubt.id in subjects or world.may_lag(doubt.resolved_at_ms or 0, doubt.id)
                tally.expect(told, doubt.id, f"is CONFIRMED as {doubt.type}, and recon has no break for that")


INVARIANTS = (
    Invariant("2j", "stray charges are known or given back", "stray charges", strays_are_known, needs_book=True),
    Invariant("2k", "what orders left is kept", "channels left", attempts_are_kept),
    Invariant("2l", "doubts are asked about, and breaks", "doubts", doubts_are_answered_for),
)
