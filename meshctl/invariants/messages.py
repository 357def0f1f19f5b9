"""6: every message took effect, once."""

from __future__ import annotations

from channel_gateway.tables import ChannelOrder
from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Slice, grouped
from pay_core.tables import Instruction, Payment
from paykit.ids import is_id
from paykit.store.system import DeadLetter, Outbox
from recon.matching import MatchKind, MatchState, match_key
from recon.pair import Pair
from recon.sides import pack, pairs_of, unpack
from recon.tables import Break, Match, RecordedOrder
from trade_core.tables import PayAttempt

GRACE_MS = 5_000  # an acknowledgement is written in bulk, a while after it came


def messages_leave(world: Slice, tally: Tally) -> None:
    """No message waits longer than the stated time; none at all where everything has settled."""
    scope = world.scope
    for row in world.rows(Outbox):
        tally.count()
        if row.acked_at_ms is None:
            age_ms = scope.now_ms - row.created_at_ms
            limit_ms = GRACE_MS if scope.settled else scope.stated_ms
            tally.expect(age_ms <= limit_ms, row.id, f"{row.destination} waits for {age_ms / 1000:.0f} s")


def instructions_have_one_order(world: Slice, tally: Tally) -> None:
    """The call of each instruction that a channel carries out made exactly one channel order."""
    for instruction in world.rows(Instruction):
        if not instruction.channel:
            continue
        tally.count()
        orders = world.orders_for.get(instruction.id, [])
        tally.expect(len(orders) <= 1, instruction.id, f"has {len(orders)} channel orders")
        if not orders and instruction.state in ("PROCESSING", "SUCCEEDED"):
            payment = world.payments.get(instruction.payment_id)
            lags = (
                instruction.state == "PROCESSING"
                and payment is not None
                and world.may_lag(payment.created_at_ms, instruction.id, payment.id)
            )
            tally.expect(lags, instruction.id, f"{instruction.state}, and has no channel order")


def attempts_have_one_payment(world: Slice, tally: Tally) -> None:
    """The call of each attempt made exactly one payment, or none where it was refused."""
    for attempt in world.rows(PayAttempt):
        tally.count()
        payments = world.payments_for.get(attempt.id, [])
        tally.expect(len(payments) <= 1, attempt.id, f"has {len(payments)} payments")
        if not payments and attempt.state == "PAYING":
            tally.expect(world.may_lag(attempt.created_at_ms, attempt.id), attempt.id, "PAYING, and has no payment")


def events_reach_recon(world: Slice, tally: Tally) -> None:
    """Whatever was moved is MATCHED in recon, or stands in a break."""
    matches = {match.payment_id: pairs_of(match) for match in world.rows(Match)}
    breaks = {row.id for row in world.rows(Break)}
    for payment in world.rows(Payment):
        if payment.state not in ("SUCCEEDED", "FAILED"):
            continue
        since_ms = payment.finished_at_ms or payment.created_at_ms
        wanted = [
            (kind, instruction.id)
            for instruction in world.chains.get(payment.id, [])
            if instruction.state == "SUCCEEDED"
            for kind in _kinds(world, instruction)
        ]
        if payment.state == "SUCCEEDED" and is_id(payment.source_id, "att"):
            wanted.append((MatchKind.TRADE_PAY, payment.id))
        for kind, id_ in wanted:
            tally.count()
            pair = matches.get(payment.id, {}).get(match_key(kind, id_))
            if pair is not None and _is_settled(pair, breaks):
                continue
            state = "nowhere" if pair is None else pair.state
            tally.expect(world.may_lag(since_ms, id_, payment.id), id_, f"{kind} is {state} in recon")


def _kinds(world: Slice, instruction: Instruction) -> list[MatchKind]:
    # A reserve moves nothing: no journal books it.
    kinds = [MatchKind.PAY_LEDGER] if instruction.action in ("COLLECT", "DISBURSE") else []
    if instruction.channel:
        kinds.append(MatchKind.PAY_CHANNEL)
    if any(leg.leg == "SENT" for leg in world.legs.get(instruction.id, [])):
        kinds.append(MatchKind.TRANSIT)
    return kinds


def _is_settled(pair: Pair, breaks: set[str]) -> bool:
    if pair.state == MatchState.BROKEN:
        return pair.break_id in breaks
    return pair.state == MatchState.MATCHED


def matches_say_what_they_hold(world: Slice, tally: Tally) -> None:
    """The columns of a match, by which it is found, counted and asked about, are what its pairs come to."""
    for match in world.rows(Match):
        tally.count()
        again = pack(match, unpack(match), match.context)
        names = [name for name in match.__columns__ if getattr(again, name) != getattr(match, name)]
        tally.expect(not names, match.id, f"its pairs say otherwise than its columns: {names}")


def orders_are_recorded(world: Slice, tally: Tally) -> None:
    """Each channel order that ended stands in recon as it ended: that is what statements are matched with."""
    recorded = {row.id: row for row in world.rows(RecordedOrder)}
    for order in world.rows(ChannelOrder):
        if order.state not in ("SUCCEEDED", "FAILED"):
            continue
        tally.count()
        row = recorded.get(order.id)
        if row is None:
            lags = world.may_lag(order.finished_at_ms or order.created_at_ms, order.id, order.payment_id)
            tally.expect(lags, order.id, f"{order.state}, and recon has no row of it")
            continue
        moved_minor = order.settled_minor or order.amount_minor
        is_so = (row.state, row.amount_minor, row.currency) == (order.state, moved_minor, order.currency)
        tally.expect(
            is_so or world.is_explained(order.id, order.payment_id),
            order.id,
            f"{order.state} {moved_minor} {order.currency}, but {row.state} {row.amount_minor} {row.currency} in recon",
        )


def no_dead_letters(world: Slice, tally: Tally) -> None:
    """No message is left to an operator."""
    for row in world.rows(DeadLetter):
        tally.count()
        tally.expect(row.state != "OPEN", row.id, f"{row.destination} could not be taken by {row.consumer}")


def orders_are_unique(world: Slice, tally: Tally) -> None:
    """A provider's reference names one channel order of its channel."""
    for order in world.rows(ChannelOrder):
        tally.count(1 if order.provider_reference else 0)
    for reference, orders in grouped(world.rows(ChannelOrder), "provider_reference").items():
        if reference:
            ids = [order.id for order in orders]
            tally.expect(len(orders) == len({o.channel for o in orders}), ids[0], f"{reference} also names {ids[1:5]}")


INVARIANTS = (
    Invariant("6a", "no message waits", "messages kept", messages_leave),
    Invariant("6b", "each channel instruction has one order", "channel instructions", instructions_have_one_order),
    Invariant("6c", "each attempt has one payment", "attempts", attempts_have_one_payment),
    Invariant("6d", "a provider's reference names one order", "references", orders_are_unique),
    Invariant("6e", "what moved is matched in recon", "matches due", events_reach_recon),
    Invariant("6f", "no dead letter is open", "dead letters", no_dead_letters),
    Invariant("6g", "a match says what its pairs say", "matches", matches_say_what_they_hold),
    Invariant("6h", "channel orders stand in recon", "channel orders", orders_are_recorded),
)
