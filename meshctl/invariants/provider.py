"""2: the provider, the channel orders and the refunds agree on what was moved, and nothing was moved twice."""

from __future__ import annotations

from collections import Counter, defaultdict

from channel_gateway.channel_order import moved_minor
from channel_gateway.originals import is_repair
from channel_gateway.sandbox.client import BookEntry
from channel_gateway.tables import ChannelOrder
from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Slice
from pay_core.payment import plan_of
from pay_core.routes import channels_of
from pay_core.tables import Instruction, LimitUsage, Payment
from trade_core.catalogue import TRADE_TYPES
from trade_core.tables import Trade
from trade_core.types import TradeType

# What follows an earlier order at the provider, and of what.
_ORIGINALS = {"refund": ("charge", "capture"), "capture": ("authorize",)}


def moved_once(world: Slice, tally: Tally) -> None:
    """At most one successful order at the provider for each instruction; of stray charges, one that is not given back
    by a repair. While a break names them they may be more."""
    returned: Counter[str] = Counter()
    for refund in world.rows(ChannelOrder):
        if is_repair(refund) and refund.state == "SUCCEEDED":
            returned[refund.original_channel_order_id] += 1
    of_instruction: dict[str, list[BookEntry]] = defaultdict(list)
    for entry in world.rows(BookEntry):
        if entry.status == "succeeded":
            tally.count()
            order = world.orders.get(entry.reference)
            of_instruction[entry.reference if order is None else order.instruction_id].append(entry)
    for id_, entries in of_instruction.items():
        names = [entry.provider_reference for entry in entries]
        references = {entry.reference for entry in entries}
        strays = sum(returned[reference] for reference in references)
        is_once = len(entries) - strays <= 1 or (strays == 0 and world.is_explained(id_, *references))
        tally.expect(is_once, id_, f"moved {len(entries)} times at the provider: {names[:5]}, {strays} given back")


def book_maps_to_orders(world: Slice, tally: Tally) -> None:
    """Every order in the provider's book is one of ours, of the same kind, amount and currency."""
    for entry in world.rows(BookEntry):
        tally.count()
        order = world.orders.get(entry.reference)
        if order is None:
            # That it belongs to the other mode is told by 7e.
            is_foreign = world.other is not None and entry.reference in world.other.orders
            lags = world.may_lag(entry.created_at_ms, entry.reference)
            is_repaired = world.is_repaired(entry.reference, entry.provider_reference)
            is_known = is_foreign or lags or is_repaired
            tally.expect(is_known, entry.reference, f"{entry.provider_reference} has no channel order")
            continue
        said = (entry.kind.upper(), entry.asked_minor, entry.currency)
        ours = (order.kind, order.amount_minor, order.currency)
        explained = world.is_explained(order.id, order.instruction_id, order.payment_id)
        tally.expect(said == ours or explained, order.id, f"the provider booked {said}, ordered was {ours}")


def orders_agree_with_book(world: Slice, tally: Tally) -> None:
    """A SUCCEEDED channel order succeeded at the provider, with the same amount; a FAILED one did not; success there
    becomes success here."""
    for order in world.rows(ChannelOrder):
        if not world.scope.has_book_of(order.channel, world.mode):
            continue
        tally.count()
        entries = world.booked.get(order.id, [])
        statuses = {entry.status for entry in entries}
        ids = (order.id, order.instruction_id, order.payment_id)
        if world.is_explained(*ids) or world.is_repaired(order.id, order.instruction_id):
            continue
        if order.state == "SUCCEEDED":
            tally.expect("succeeded" in statuses, order.id, f"SUCCEEDED here, {sorted(statuses) or 'unknown'} there")
            moved = {entry.amount_minor for entry in entries if entry.status == "succeeded"} - {moved_minor(order)}
            tally.expect(not moved, order.id, f"moved {moved_minor(order)} here, {sorted(moved)} there")
        elif "succeeded" in statuses:
            lags = order.state != "FAILED" and not world.scope.settled
            tally.expect(lags, order.id, f"{order.state} here, succeeded at the provider")


def instructions_agree_with_orders(world: Slice, tally: Tally) -> None:
    """An instruction that a channel carries out ends as its channel order does."""
    for order in world.rows(ChannelOrder):
        tally.count()
        instruction = world.instructions.get(order.instruction_id)
        if is_repair(order):
            repair = world.repairs.get(order.instruction_id)
            is_asked = repair is not None and repair.kind == "REFUND" and order.kind == "REFUND"
            tally.expect(is_asked, order.id, f"made for {order.instruction_id}, which is no repair that gives back")
            continue
        if instruction is None:
            tally.expect(
                world.may_lag(order.created_at_ms, order.instruction_id), order.id, "its instruction is unknown"
            )
            continue
        wanted = (instruction.payment_id, instruction.amount_minor, instruction.currency)
        made = (order.payment_id, order.amount_minor, order.currency)
        tally.expect(wanted == made, order.id, f"made for {made}, the instruction says {wanted}")
        # Of several channels the result tells which.
        is_told = instruction.state in ("SUCCEEDED", "FAILED")
        channels = {instruction.channel} | (frozenset() if is_told else channels_of(instruction.route))
        tally.expect(order.channel in channels, order.id, f"by {order.channel}, the instruction says {channels}")
        if instruction.state == order.state:
            both = (instruction.moved_minor or instruction.amount_minor, moved_minor(order))
            agree = order.state != "SUCCEEDED" or both[0] == both[1]
            tally.expect(agree, order.id, f"moved {both[1]}, instruction {instruction.id} says {both[0]}")
            continue
        if instruction.state == "INIT":
            unseen = world.scope.may_be_unseen(order.created_at_ms)
            tally.expect(unseen, order.id, f"made for {instruction.id}, which was never begun")
        elif order.state in ("SUCCEEDED", "FAILED") and instruction.state == "PROCESSING":
            lags = world.may_lag(order.finished_at_ms or 0, order.id, order.instruction_id, order.payment_id)
            tally.expect(lags, order.id, f"is {order.state}, instruction {instruction.id} still PROCESSING")
        elif instruction.state in ("SUCCEEDED", "FAILED"):
            explained = world.is_explained(order.instruction_id, order.payment_id)
            tally.expect(explained, order.id, f"is {order.state}, instruction {instruction.id} {instruction.state}")


def refunds_fit_payments(world: Slice, tally: Tally) -> None:
    """What a payment, and each of its instructions, has given back or is giving back are its refunds (and what it undid
    itself), and never more than was paid."""
    done: Counter[str] = Counter()
    pending: Counter[str] = Counter()
    reserved: Counter[str] = Counter()
    for payment in world.rows(Payment):
        chain = world.chains.get(payment.id, [])
        for instruction in chain:
            if instruction.direction == "REVERSE" and instruction.attempt_no == 1:
                reserved[instruction.reverses_id or ""] += instruction.amount_minor
        if payment.original_payment_id is None or payment.state == "FAILED":
            continue
        asked = {ins.reverses_id: ins.amount_minor for ins in chain if ins.direction == "FORWARD" and ins.reverses_id}
        taken = {ins.reverses_id for ins in chain if ins.direction == "FORWARD" and ins.action == "COLLECT"}
        # What comes out of suspense was never a part of the amount: it reverses nothing.
        amount_minor = sum(asked[id_] for id_ in taken if id_)
        (done if payment.state == "SUCCEEDED" else pending)[payment.original_payment_id] += amount_minor
        reserved.update(asked)
    for payment in world.rows(Payment):
        tally.count()
        told = (payment.refunded_minor, payment.refunding_minor)
        found = (done.pop(payment.id, 0), pending.pop(payment.id, 0))
        tally.expect(told == found, payment.id, f"says refunded and refunding {told}, its refunds are {found}")
        paid_minor = payment.amount_minor if payment.settlement_mode == "IMMEDIATE" else payment.captured_minor
        tally.expect(sum(told) <= paid_minor, payment.id, f"{sum(told)} given back of {paid_minor}")
    for original_id, amount_minor in [*done.items(), *pending.items()]:
        tally.expect(not amount_minor, original_id, "refunds name this payment, which does not exist")
    for instruction in world.rows(Instruction):
        found_minor = reserved[instruction.id]
        tally.expect(
            instruction.refunded_minor == found_minor <= instruction.amount_minor,
            instruction.id,
            f"says {instruction.refunded_minor} of {instruction.amount_minor} given back, refunds say {found_minor}",
        )


def followers_fit_originals(world: Slice, tally: Tally) -> None:
    """What the provider gave back of a charge or capture, or captured of an authorisation, is never more than it; but
    where it denied what it had said at first, and a break names that."""
    used: Counter[tuple[str, str]] = Counter()
    for entry in world.rows(BookEntry):
        if entry.kind in _ORIGINALS and entry.status == "succeeded":
            used[entry.original_reference, entry.kind] += entry.amount_minor
    for (reference, kind), amount_minor in used.items():
        tally.count()
        original_minor = sum(
            entry.amount_minor
            for entry in world.booked.get(reference, [])
            if entry.status == "succeeded" and entry.kind in _ORIGINALS[kind]
        )
        order = world.orders.get(reference)
        ids = (reference,) if order is None else (reference, order.instruction_id, order.payment_id)
        fits = amount_minor <= original_minor or world.is_explained(*ids) or world.is_repaired(*ids)
        tally.expect(fits, reference, f"{kind} of {amount_minor} out of {original_minor}")


def authorizations_end_once(world: Slice, tally: Tally) -> None:
    """What the provider reserved is captured or voided there, once."""
    ended: Counter[str] = Counter()
    for entry in world.rows(BookEntry):
        if entry.kind == "authorize":
            tally.count()
        elif entry.kind in ("capture", "void") and entry.status == "succeeded":
            ended[entry.original_reference] += 1
    for reference, number in ended.items():
        tally.expect(number == 1, reference, f"captured or voided {number} times")


def refunds_fit_trades(world: Slice, tally: Tally) -> None:
    """A trade's refunded and refundable amounts are what its refunds leave of what was paid. Repairs give back what it
    never took; of a trade paid by its parts nothing is refundable itself."""
    done: Counter[str] = Counter()
    pending: Counter[str] = Counter()
    for refund in world.rows(Trade):
        if refund.trade_type == TradeType.REFUND and refund.state != "FAILED" and not refund.repairs_attempt_id:
            (done if refund.state == "PAID" else pending)[refund.parent_trade_id] += refund.amount_minor
    for trade in world.rows(Trade):
        tally.count()
        done_minor, pending_minor = done.pop(trade.id, 0), pending.pop(trade.id, 0)
        is_paid_alone = trade.state == "PAID" and not trade.part_paid_count
        may_be_refunded = is_paid_alone and TradeType.REFUND in _follow_ups(trade)
        left_minor = trade.paid_minor - done_minor - pending_minor if may_be_refunded else 0
        told, found = (trade.refunded_minor, trade.refundable_minor), (done_minor, left_minor)
        tally.expect(told == found, trade.id, f"says refunded and refundable {told}, its refunds leave {found}")
        tally.expect(left_minor >= 0, trade.id, f"{-left_minor} more given back than was paid")
    for parent_id in [*done, *pending]:
        tally.violate(parent_id, "refunds name this trade, which does not exist")


def _follow_ups(trade: Trade) -> frozenset[TradeType]:
    return TRADE_TYPES[TradeType(trade.trade_type)].follow_ups


def limits_count_payments(world: Slice, tally: Tally) -> None:
    """What an owner has used of a limit on its date are the payments that were counted on it and came to something."""
    used: dict[tuple[str, str], list[int]] = {}
    for payment in world.rows(Payment):
        if payment.state not in ("FAILED", "VOIDED"):
            for usage_key in plan_of(payment).usages:
                amounts = used.setdefault((usage_key, payment.accounting_date), [])
                amounts.append(payment.amount_minor)
    for row in world.rows(LimitUsage):
        tally.count()
        amounts = used.get((row.usage_key, row.accounting_date), [])
        told, due = (row.amount_minor, row.payment_count), (sum(amounts), len(amounts))
        tally.expect(told == due, row.id, f"{row.usage_key} says {told}, its payments are {due}")


INVARIANTS = (
    Invariant("2a", "one charge or refund per instruction", "provider orders", moved_once, needs_book=True),
    Invariant("2b", "each provider order is a channel order", "provider orders", book_maps_to_orders, needs_book=True),
    Invariant(
        "2c", "channel orders agree with the provider", "channel orders", orders_agree_with_book, needs_book=True
    ),
    Invariant("2d", "instructions agree with channel orders", "channel orders", instructions_agree_with_orders),
    Invariant("2e", "refunds of a payment fit what was paid", "payments", refunds_fit_payments),
    Invariant(
        "2f", "refunds and captures at the provider fit", "provider orders", followers_fit_originals, needs_book=True
    ),
    Invariant("2g", "refunds of a trade fit what was paid", "trades", refunds_fit_trades),
    Invariant("2h", "an authorisation is used once", "authorisations", authorizations_end_once, needs_book=True),
    Invariant("2i", "limits count what was accepted", "limits in use", limits_count_payments),
)
