"""10: what statements say of orders is what their lines say, and every difference is, or was, a break."""

from __future__ import annotations

from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import Slice, grouped
from recon.matching import MatchKind, match_key
from recon.statements import judging
from recon.statements.judging import ORDER_PREFIX, LineState, Settlement
from recon.statements.model import LineKind
from recon.tables import Break, RecordedOrder, StatementLine


def settled_orders_have_their_line(world: Slice, tally: Tally) -> None:
    """An order that AGREED has a line of the same amount; one that is BROKEN has its break; an OPEN one has neither."""
    lines = {line.id: line for line in world.rows(StatementLine)}
    breaks = {row.id for row in world.rows(Break)}
    for order in world.rows(RecordedOrder):
        tally.count()
        line = lines.get(order.statement_line_id or "")
        moved_minor = judging.expected_minor(order)
        match order.settlement:
            case Settlement.AGREED:
                told = None if line is None else (line.state, line.channel, line.currency, line.amount_minor)
                due = (LineState.CURRENT, order.channel, order.currency, moved_minor)
                tally.expect(told == due, order.id, f"AGREED, its line says {told}, not {due}")
            case Settlement.BROKEN:
                tally.expect(order.break_id in breaks, order.id, f"BROKEN, and has no break: {order.break_id}")
            case Settlement.NOT_EXPECTED:
                tally.expect(moved_minor is None, order.id, f"NOT_EXPECTED, and moved {moved_minor}")
            case Settlement.OPEN:
                tally.expect(order.statement_line_id is None, order.id, "OPEN, and has a line")
            case _:
                tally.violate(order.id, f"is settled in no known way: {order.settlement!r}")


def differing_lines_have_their_break(world: Slice, tally: Tally) -> None:
    """A line that differs names its break, which is about the same order; one that does not settles its order."""
    breaks = {row.id: row for row in world.rows(Break)}
    orders = {row.id: row for row in world.rows(RecordedOrder)}
    by_ref = grouped(world.rows(StatementLine), "match_ref")
    for ref, lines in by_ref.items():
        counting = [line for line in lines if line.kind == LineKind.MOVEMENT and line.state == LineState.CURRENT]
        has_reversal = any(line.is_reversal for line in counting)
        for line in counting:
            tally.count()
            if line.difference:
                found = breaks.get(line.break_id or "")
                about = None if found is None else found.match_key
                due = match_key(MatchKind.STATEMENT, ref)
                tally.expect(about == due, line.id, f"{line.difference}, and its break is about {about}")
            elif world.scope.settled and not has_reversal:  # what takes a line back settles nothing, nor does that line
                order = orders.get(ref) if ref.startswith(ORDER_PREFIX) else None
                settled = None if order is None else order.statement_line_id
                tally.expect(settled == line.id, line.id, f"agrees, and {ref} is settled by {settled}")


INVARIANTS = (
    Invariant("10a", "orders are settled by their lines", "orders", settled_orders_have_their_line),
    Invariant("10b", "lines that differ have their break", "lines", differing_lines_have_their_break),
)
