"""8: every record has its audit row with a caller, and no text holds a card number or a secret."""

from __future__ import annotations

from channel_gateway.overrides import EXPIRY_MAX_MS, OVERRIDES_SLOT, OverrideMode
from channel_gateway.tables import ChannelOrder, ChannelOverride, Notification
from meshctl.invariants.base import Invariant, Tally
from meshctl.invariants.world import COMPENSATIONS, Flaw, Slice
from pay_core.tables import (
    Adjustment,
    Closing,
    Coupon,
    Hold,
    Instruction,
    Journal,
    Payment,
    PaymentCase,
    RuleVersion,
)
from paykit.store.row import Row
from paykit.store.system import CommandRecord
from recon.tables import Break, Repair, Statement
from trade_core.tables import PayAttempt, Trade

AUDITED: tuple[type[Row], ...] = (
    Trade,
    PayAttempt,
    Payment,
    Instruction,
    Journal,
    Hold,
    Coupon,
    PaymentCase,
    Closing,
    RuleVersion,
    Adjustment,
    *COMPENSATIONS.values(),
    ChannelOrder,
    Notification,
    ChannelOverride,
    Break,
    Repair,
    Statement,
)


def records_are_audited(world: Slice, tally: Tally) -> None:
    """Whatever was made has an audit row that names it."""
    for row_type in AUDITED:
        for row in world.rows(row_type):
            tally.count()
            tally.expect(row.id in world.changes, row.id, f"no audit row names this {row_type.__entity__}")
    for flaw in world.rows(Flaw):
        if flaw.what == "CHANGES":
            tally.violate(flaw.id, "the changes of this audit row cannot be read")


def callers_are_named(world: Slice, tally: Tally) -> None:
    """Every audit row names who caused it."""
    for record in world.rows(CommandRecord):
        tally.count()
        tally.expect(record.caller != "", record.id, f"{record.name} ({record.trigger}) names no caller")


def no_card_numbers(world: Slice, tally: Tally) -> None:
    """No text of any row holds a card number."""
    _without(world, tally, "CARD", "holds a card number")


def no_secrets(world: Slice, tally: Tally) -> None:
    """No text of any row holds a configured secret."""
    _without(world, tally, "SECRET", "holds a configured secret")


def _without(world: Slice, tally: Tally, what: str, detail: str) -> None:
    # The text itself was looked through when the row was read; what it held is never repeated here.
    tally.count(sum(1 for _ in world.placed()))
    for flaw in world.rows(Flaw):
        if flaw.what == what:
            tally.violate(flaw.id, f"{flaw.table} {detail}")


def overrides_are_explained(world: Slice, tally: Tally) -> None:
    """What people set breakers to says what it is for, who did it and why, and ends by itself within its time."""
    modes = {mode.value for mode in OverrideMode}
    for row in world.rows(ChannelOverride):
        tally.count()
        is_whole = row.slot == OVERRIDES_SLOT and row.mode in modes
        names_one = bool(row.channel) and row.override_key == f"{row.channel}/{row.merchant}"
        tally.expect(is_whole and names_one, row.id, f"{row.override_key} is no override that breakers keep to")
        tally.expect(bool(row.set_by and row.reason), row.id, "does not say who set it, or why")
        ends_in_ms = None if row.expire_at_ms is None else row.expire_at_ms - row.set_at_ms
        is_over = ends_in_ms is None if row.mode == OverrideMode.NONE else 0 < (ends_in_ms or 0) <= EXPIRY_MAX_MS
        tally.expect(is_over, row.id, f"{row.mode}, and ends {ends_in_ms} ms after it was set")


INVARIANTS = (
    Invariant("8a", "each record has an audit row", "records", records_are_audited),
    Invariant("8b", "each audit row names its caller", "audit rows", callers_are_named),
    Invariant("8c", "no card number in any table", "rows", no_card_numbers),
    Invariant("8d", "no secret in any table", "rows", no_secrets),
    Invariant("8e", "each override says who, why and until when", "overrides", overrides_are_explained),
)
