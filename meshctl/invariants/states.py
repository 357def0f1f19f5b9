"""3: only legal transitions, from the first state to the present one; never both done and undone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from channel_gateway.channel_order import CHANNEL_ORDER
from channel_gateway.doubt import DOUBT
from channel_gateway.tables import ChannelDoubt, ChannelOrder
from meshctl.invariants.base import Invariant, Tally, is_path
from meshctl.invariants.world import COMPENSATIONS, Slice
from pay_core.case import CASE
from pay_core.closing import CLOSING
from pay_core.coupon import COUPON
from pay_core.holds import HOLD
from pay_core.payment import ESCROW, INSTRUCTION, PAYMENT, Action, Direction, collected_minor, did
from pay_core.tables import Closing, Coupon, Hold, Instruction, Payment, PaymentCase
from paykit.compensation import COMPENSATION
from paykit.state_machine import StateMachine
from paykit.store.command import Change
from paykit.store.row import Row
from recon.matching import BREAK, MATCH
from recon.repair import REPAIR
from recon.statements.states import STATEMENT
from recon.tables import Break, Match, Repair, Statement
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import ATTEMPT, TRADE

# Matches leave no audit rows: only their present state can be looked at. Books go round for ever: see 1o.
MACHINES: Mapping[type[Row], StateMachine[Any]] = {
    Trade: TRADE,
    PayAttempt: ATTEMPT,
    Payment: PAYMENT,
    Instruction: INSTRUCTION,
    Hold: HOLD,
    Coupon: COUPON,
    PaymentCase: CASE,
    Closing: CLOSING,
    **dict.fromkeys(COMPENSATIONS.values(), COMPENSATION),
    ChannelOrder: CHANNEL_ORDER,
    ChannelDoubt: DOUBT,
    Break: BREAK,
    Repair: REPAIR,
    Statement: STATEMENT,
    Match: MATCH,
}


def transitions_are_legal(world: Slice, tally: Tally) -> None:
    """Every change of state on record is one that its transition table allows: none leaves a terminal state."""
    machines = {row_type.__entity__: machine for row_type, machine in MACHINES.items()}
    for id_, changes in world.changes.items():
        for change in changes:
            machine = machines.get(change.entity)
            if machine is not None and change.from_state != change.to_state:
                tally.count()
                what = f"{change.entity}: {change.from_state or 'new'} → {change.to_state}"
                tally.expect(_is_legal(machine, change), id_, what)


def _is_legal(machine: StateMachine[Any], change: Change) -> bool:
    states = {state.value for state in machine.states}
    if change.to_state not in states:
        return False
    if not change.from_state:
        return machine.states(change.to_state) is machine.initial
    return change.from_state in states and machine.allows(change.from_state, machine.states(change.to_state))


def transitions_chain(world: Slice, tally: Tally) -> None:
    """The changes on record lead from a record's making to its present state, without a gap."""
    changes = world.changes
    for row_type, machine in MACHINES.items():
        states = {state.value for state in machine.states}
        for row in world.rows(row_type):
            tally.count()
            state = str(getattr(row, "state", ""))
            tally.expect(state in states, row.id, f"is in no state of {machine.entity}: {state!r}")
            edges = [(c.from_state, c.to_state) for c in changes.get(row.id, []) if c.from_state != c.to_state]
            if edges:  # that there is none is told by 8a
                tally.expect(is_path(edges, "", state), row.id, f"is {state}, which its changes {edges} do not lead to")


def versions_are_positive(world: Slice, tally: Tally) -> None:
    """Versions begin at 1, and what is never changed stays there."""
    for service, _, row in world.placed():
        tally.count()
        is_fixed = row.__entity__ in _NEVER_CHANGED
        tally.expect(row.version >= 1, row.id, f"{service}.{row.__entity__} has version {row.version}")
        tally.expect(row.version <= 1 or not is_fixed, row.id, f"{row.__entity__} was changed: version {row.version}")


_NEVER_CHANGED = (
    "entry",
    "journal",
    "adjustment",
    "command_record",
    "notification",
    "channel_attempt",
    "rule_version",
    "trade_line",
    "trade_relation",
)


def not_both_done_and_undone(world: Slice, tally: Tally) -> None:
    """No step is undone twice, nor for more than it did. A payment that SUCCEEDED at once has undone nothing; one that
    FAILED or was VOIDED has given everything back."""
    for payment in world.rows(Payment):
        tally.count()
        chain = world.chains.get(payment.id, [])
        back: Counter[str] = Counter()
        for ins in did(chain, Action.DISBURSE, Direction.REVERSE):
            back[ins.reverses_id or ""] += ins.amount_minor
        twice = [id_ for id_, number in _undone(chain).items() if number > 1]
        tally.expect(not twice, payment.id, f"undid a step twice: {twice}")
        came = {ins.id: collected_minor(ins) for ins in did(chain, Action.COLLECT) if ins.tool != ESCROW}
        too_much = [id_ for id_, amount_minor in back.items() if amount_minor > came.get(id_, 0)]
        tally.expect(not too_much, payment.id, f"gave more back than came of {too_much}")
        if payment.state == "SUCCEEDED" and payment.settlement_mode == "IMMEDIATE":
            tally.expect(not back, payment.id, f"SUCCEEDED, and undid {sorted(back)}")
        elif payment.state in ("FAILED", "VOIDED"):
            kept = sorted(id_ for id_, amount_minor in came.items() if amount_minor > back[id_])
            is_kept = bool(kept) and not world.is_explained(payment.id)
            tally.expect(not is_kept, payment.id, f"{payment.state}, and kept {kept}")


def _undone(chain: list[Instruction]) -> Counter[str]:
    """How often each COLLECT was given back, and each RESERVE given up."""
    given = [ins.reverses_id for ins in did(chain, Action.DISBURSE, Direction.REVERSE)]
    released = [ins.reserve_id for ins in did(chain, Action.RELEASE, Direction.REVERSE)]
    return Counter([id_ for id_ in (*given, *released) if id_])


INVARIANTS = (
    Invariant("3a", "transitions are legal, terminal states stay", "transitions", transitions_are_legal),
    Invariant("3b", "transitions lead to the present state", "records", transitions_chain),
    Invariant("3c", "versions begin at 1", "rows", versions_are_positive),
    Invariant("3d", "nothing is both done and undone", "payments", not_both_done_and_undone),
)
