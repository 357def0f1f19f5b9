"""Holds: money of a customer's account kept for a payment. ``account.held_minor`` is what its ACTIVE holds still keep.

All functions change rows through ``Work``: the account (``ledger.account_keys``) and the hold (``hold_key``, or all of
a payment by its id) must have been read.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pay_core import ledger
from pay_core.ledger import AccountRef, Draft
from pay_core.tables import Account, Hold
from paykit.state_machine import StateMachine
from paykit.store.command import Rows, Work
from paykit.store.row import Key, key


class HoldState(StrEnum):
    """Where a hold is. The names are those of the proto."""

    ACTIVE = "ACTIVE"
    CAPTURED = "CAPTURED"  # in whole or in part; the rest was let go
    RELEASED = "RELEASED"  # without a capture
    EXPIRED = "EXPIRED"  # without a capture, because its time was up


HOLD = StateMachine(
    "hold",
    HoldState,
    HoldState.ACTIVE,
    {
        HoldState.ACTIVE: frozenset({HoldState.CAPTURED, HoldState.RELEASED, HoldState.EXPIRED}),
        HoldState.CAPTURED: frozenset(),
        HoldState.RELEASED: frozenset(),
        HoldState.EXPIRED: frozenset(),
    },
)


def hold_key(instruction_id: str) -> Key:
    """What a command must read to find the hold that a RESERVE instruction placed."""
    return key(Hold, instruction_id, "instruction_id")


def hold_of(rows: Rows, instruction_id: str) -> Hold | None:
    """The hold that a RESERVE instruction placed."""
    return rows.get(Hold, instruction_id, "instruction_id")


def kept_minor(hold: Hold) -> int:
    """What a hold still keeps."""
    return hold.amount_minor - hold.captured_minor - hold.released_minor


def place(
    work: Work,
    ref: AccountRef,
    amount_minor: int,
    payment_id: str,
    instruction_id: str,
    expires_at_ms: int | None,
    draft: Draft,
) -> Hold | str:
    """Keeps money of an account, after what ``draft`` does to it; or the reason why it cannot (``ledger.refusal``)."""
    assert amount_minor > 0
    reason = ledger.refusal(work, ref, amount_minor, draft)
    account = work.get(Account, ref.account_key, "account_key")
    if reason or account is None:
        # What a draft has not posted yet cannot be held: an account is made by its first posting.
        return reason or ledger.INSUFFICIENT_FUNDS
    _keep(work, account.id, amount_minor)
    hold = Hold(
        id=work.new_id("hld", ref.slot),
        slot=ref.slot,
        account_id=account.id,
        payment_id=payment_id,
        instruction_id=instruction_id,
        state=HOLD.initial.value,
        currency=ref.currency,
        amount_minor=amount_minor,
        captured_minor=0,
        released_minor=0,
        expires_at_ms=expires_at_ms,
        created_at_ms=work.now_ms,
    )
    return work.insert(hold, parent_id=payment_id, note=f"{amount_minor} {ref.currency}")


def capture(work: Work, hold: Hold, amount_minor: int) -> Hold | str:
    """Lets go of a part for a debit of the same amount, which must be drafted in the same decision.

    Any number of times, until nothing is kept: ask ``kept_minor`` first. Or the reason why nothing may leave the
    account: ACCOUNT_FROZEN.
    """
    assert 0 < amount_minor <= kept_minor(hold)
    account = work.get(Account, hold.account_id)
    assert account is not None
    if account.freeze_reason:
        return ledger.ACCOUNT_FROZEN
    captured = msgspec.structs.replace(hold, captured_minor=hold.captured_minor + amount_minor)
    if not kept_minor(captured):
        captured = HOLD.move(captured, HoldState.CAPTURED)
    _keep(work, account.id, -amount_minor)
    return work.update(captured, parent_id=hold.payment_id, note=f"{amount_minor} captured")


def release(work: Work, hold: Hold, reason: str = "", *, is_expiry: bool = False) -> Hold:
    """Lets go of all that is still kept, frozen or not: nothing leaves. A hold that is over stays as it is."""
    if HOLD.is_terminal(hold.state):
        return hold
    rest_minor = kept_minor(hold)
    state = HoldState.EXPIRED if is_expiry else HoldState.RELEASED
    if hold.captured_minor:
        state = HoldState.CAPTURED
    _keep(work, hold.account_id, -rest_minor)
    released = HOLD.move(hold, state, released_minor=hold.released_minor + rest_minor)
    return work.update(released, parent_id=hold.payment_id, note=reason or f"{rest_minor} released")


def _keep(work: Work, account_id: str, change_minor: int) -> None:
    account = work.get(Account, account_id)
    assert account is not None
    held = msgspec.structs.replace(account, held_minor=account.held_minor + change_minor)
    assert held.held_minor >= 0
    work.update(held, audit=False)
