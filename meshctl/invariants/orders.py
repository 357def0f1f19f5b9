"""5, of orders: parts make up their whole, a part has one group, what nobody wanted is given back, payees see it so."""

from __future__ import annotations

from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Listed, Slice, grouped
from trade_core.catalogue import TRADE_TYPES
from trade_core.tables import PayAttempt, Trade, TradeRelation
from trade_core.trade import OVER, RelationKind
from trade_core.types import TOGETHER, Parts, TradeType

_PART_RELATIONS = (RelationKind.MERGED, RelationKind.SPLIT, RelationKind.INSTALMENT_OF)


def parts_make_up_their_order(world: Slice, tally: Tally) -> None:
    """The parts of an order are as many as it counts and come to no more than it; parts it was made with come to it
    exactly. What it counts as paid are the parts that are."""
    for parent in world.rows(Trade):
        relations = [row for row in world.relations_of.get(parent.id, []) if row.kind in _PART_RELATIONS]
        tally.expect(len(relations) == parent.part_count, parent.id, f"{len(relations)} of {parent.part_count} parts")
        if not relations:
            continue
        tally.count()
        parts = [world.trades[row.child_trade_id] for row in relations if row.child_trade_id in world.trades]
        tally.expect(len(parts) == len(relations), parent.id, "a part of it does not exist")
        made_of = TRADE_TYPES[TradeType(parent.trade_type)].parts
        whole_minor = sum(part.amount_minor for part in parts)
        is_whole = whole_minor == parent.amount_minor or made_of is Parts.NONE
        tally.expect(is_whole, parent.id, f"its parts come to {whole_minor}, it to {parent.amount_minor}")
        paid = [part for part in parts if part.state == "PAID"]
        if made_of in TOGETHER:
            # Orders that were merged in vain may have been paid since, by themselves or with others.
            paid = [part for part in paid if parent.attempt_id and part.attempt_id == parent.attempt_id]
        if made_of is Parts.NONE and not paid:
            continue  # paid whole after all
        told, due = (parent.part_paid_count, parent.paid_minor), (len(paid), sum(part.amount_minor for part in paid))
        tally.expect(told == due, parent.id, f"counts {told} of its parts as paid, they are {due}")
        is_paid = parent.state == "PAID"
        is_full = parent.paid_minor == parent.amount_minor
        tally.expect(is_paid == is_full or parent.state == "CLOSED", parent.id, f"{parent.state}, paid {told[1]}")


def parts_have_one_group(world: Slice, tally: Tally) -> None:
    """An order that a merged payment pays just now is CREATED, and of no other one that is not over; that one is under
    way. A trade has one root and, but for merging, one parent."""
    parents = grouped([row for row in world.rows(TradeRelation) if row.kind in _PART_RELATIONS], "child_trade_id")
    for trade in world.rows(Trade):
        relations = parents.get(trade.id, [])
        if not relations and not trade.group_trade_id:
            continue
        tally.count()
        merged = [row.parent_trade_id for row in relations if row.kind == RelationKind.MERGED]
        under_way = [id_ for id_ in merged if id_ in world.trades and world.trades[id_].state not in OVER]
        wanted = [trade.group_trade_id] if trade.group_trade_id else []
        tally.expect(under_way == wanted, trade.id, f"in the group {wanted}, and merged by {under_way}")
        is_still = not trade.group_trade_id or trade.state == "CREATED"
        tally.expect(is_still, trade.id, f"{trade.state} while {trade.group_trade_id} is to pay it")
        own = [row.parent_trade_id for row in relations if row.kind != RelationKind.MERGED]
        is_one = len(own) <= 1 and (not own or own == [trade.parent_trade_id])
        tally.expect(is_one, trade.id, f"is a part of {own}, and says {trade.parent_trade_id!r}")


def returned_money_goes_back(world: Slice, tally: Tally) -> None:
    """Each attempt that was not wanted any more has one refund of all it brought, which is tried until it is done; or
    its money was only kept, and is let go."""
    repairs = grouped([trade for trade in world.rows(Trade) if trade.repairs_attempt_id], "repairs_attempt_id")
    for attempt in world.rows(PayAttempt):
        refunds = repairs.pop(attempt.id, [])
        if attempt.state != "RETURNED":
            tally.expect(not refunds, attempt.id, f"{attempt.state}, and given back by {[row.id for row in refunds]}")
            continue
        tally.count()
        payment = world.payments.get(attempt.payment_id)
        if payment is None:
            tally.violate(attempt.id, f"RETURNED, and {attempt.payment_id or 'its payment'} does not exist")
            continue
        if payment.state != "SUCCEEDED":
            is_kept = payment.settlement_mode != "IMMEDIATE" and not refunds
            is_going = payment.state == "VOIDED" or world.may_lag(attempt.finished_at_ms or 0, payment.id, attempt.id)
            tally.expect(is_kept and is_going, attempt.id, f"RETURNED, and {payment.id} is {payment.state}")
            continue
        came_minor = payment.amount_minor if payment.settlement_mode == "IMMEDIATE" else payment.captured_minor
        given = [row.amount_minor for row in refunds if row.state != "FAILED"]
        tally.expect(given == [came_minor], attempt.id, f"brought {came_minor}, given back are {given}")
    for attempt_id in repairs:
        tally.violate(attempt_id, "refunds give back this attempt, which does not exist")


def payees_see_their_trades(world: Slice, tally: Tally) -> None:
    """A payee's list has each trade once, as it was at the version it names, and in the end as it is."""
    found = grouped(world.rows(Listed), "trade_id")
    for trade in world.rows(Trade):
        rows = found.pop(trade.id, [])
        if not trade.payee_id:
            tally.expect(not rows, trade.id, "is listed, and has no payee")
            continue
        tally.count()
        changed_ms = max(trade.created_at_ms, world.changed_at_ms.get(trade.id, 0))
        if len(rows) != 1:
            # One that is to be paid at once is told of when there is something to tell.
            lags = not rows and (trade.state == "PAYING" or world.may_lag(trade.created_at_ms, trade.id))
            tally.expect(lags, trade.id, f"is listed {len(rows)} times")
            continue
        (row,) = rows
        told = (trade.state, trade.amount_minor, trade.paid_minor, trade.refunded_minor, trade.refundable_minor)
        lags = row.trade_version < trade.version and world.may_lag(changed_ms, trade.id)
        is_known = row.trade_version <= trade.version or world.scope.may_be_unseen(changed_ms)
        tally.expect(is_known, trade.id, f"is listed at version {row.trade_version}, it has {trade.version}")
        tally.expect(row.told == told or lags, trade.id, f"is listed as {row.told}, it is {told}")
    for trade_id in found:
        tally.expect(not world.scope.settled, trade_id, "is listed, and does not exist")


INVARIANTS = (
    Invariant("5k", "parts make up their order", "orders with parts", parts_make_up_their_order),
    Invariant("5l", "parts have one group", "parts", parts_have_one_group),
    Invariant("5m", "what came unwanted goes back", "attempts returned", returned_money_goes_back),
    Invariant("5n", "payees see their trades", "trades of payees", payees_see_their_trades),
)
