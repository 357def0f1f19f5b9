"""6: every message took effect, once."""

from __future__ import annotations

from channel_gateway.tables import ChannelOrder
from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Slice, grouped
from pay_core.tables import Instruction, Payment
from paykit.ids import is_id
from paykit.store.system import DeadLetter, Outbox
from recon.matching import MatchKind, MatchState, match_key
from recon.tables import Break, Match
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
    matches = {match.match_key: match for match in world.rows(Match)}
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
            match = matches.get(match_key(kind, id_))
            if match is not None and _is_settled(match, breaks):
                continue
            state = "nowhere" if match is None else match.state
            tally.expect(world.may_lag(since_ms, id_, payment.id), id_, f"{kind} is {state} in recon")


def _kinds(world: Slice, instruction: Instruction) -> list[MatchKind]:
    # A reserve moves nothing: no journal books it.
    kinds = [MatchKind.PAY_LEDGER] if instruction.action in ("COLLECT", "DISBURSE") else []
    if instruction.channel:
        kinds.append(MatchKind.PAY_CHANNEL)
    if any(leg.leg == "SENT" for leg in world.legs.get(instruction.id, [])):
        kinds.append(MatchKind.TRANSIT)
    return kinds


def _is_settled(match: Match, breaks: set[str]) -> bool:
    if match.state == MatchState.BROKEN:
        return match.break_id in breaks
    return match.state == MatchState.MATCHED


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
)
