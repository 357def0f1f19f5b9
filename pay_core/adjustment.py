"""Adjustments: journals that no payment posts, because a repair has to set the books right. Pure.

ADJUST sets the mirror of a provider's book right: EXTERNAL against SUSPENSE, where the money waits until a person has
found out whose it is. REVERSE undoes a journal that books an instruction which was not carried out after all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from pay_core.chart import AccountKind
from pay_core.ledger import AccountRef, Booking, Draft, Leg, internal
from pay_core.payment import InstructionState
from pay_core.tables import Account, Entry, Instruction, Journal
from paykit.ids import is_id
from paykit.money import AMOUNT_MINOR_MAX, is_currency
from paymesh.ops.v1 import compensation_service_pb2

ADJUST = "ADJUST"
REVERSE = "REVERSE"

_decode_bookings = msgspec.json.Decoder(list[tuple[str, int, str]]).decode

Compensation = compensation_service_pb2.Compensation


class Refusal(NamedTuple):
    """Why nothing is posted. ``is_null``: there is nothing to put right; else it must not be done."""

    detail: str
    is_null: bool = False


def adjustment_refs(slot: int, request: Compensation) -> list[AccountRef]:
    """The two accounts of an ADJUST: EXTERNAL, SUSPENSE. None where it does not say which."""
    if refuse_adjustment(request):
        return []
    currency = request.amount.currency_code
    return [
        internal(slot, AccountKind.EXTERNAL, currency, request.channel),
        internal(slot, AccountKind.SUSPENSE, currency),
    ]


def refuse_adjustment(request: Compensation) -> str:
    """Why an ADJUST cannot be posted as it is asked for; empty where it can."""
    if not request.channel:
        return "it names no channel"
    if not is_currency(request.amount.currency_code):
        return "it names no currency"
    if not 0 < abs(request.amount.amount_minor) <= AMOUNT_MINOR_MAX:
        return "its amount is zero or too large"
    return ""


def adjustment(slot: int, request: Compensation) -> Draft:
    """More came in outside than in our books: EXTERNAL is debited and SUSPENSE owes it to somebody; or the reverse."""
    external, suspense = adjustment_refs(slot, request)
    amount_minor = request.amount.amount_minor
    draft = Draft(slot, request.amount.currency_code)
    debit, credit = (external, suspense) if amount_minor > 0 else (suspense, external)
    draft.shift(debit, credit, abs(amount_minor))
    return draft


def bookings_of(journal: Journal) -> list[Booking]:
    """The instructions that a journal books."""
    return [Booking(id_, amount_minor, Leg(leg)) for id_, amount_minor, leg in _decode_bookings(journal.bookings)]


def booking_journals(journals: Sequence[Journal], instruction_id: str) -> list[Journal]:
    """Those that book an instruction."""
    return [row for row in journals if any(booked.instruction_id == instruction_id for booked in bookings_of(row))]


def to_reverse(
    instruction: Instruction | None, journals: Sequence[Journal], others: Sequence[Instruction]
) -> Journal | Refusal:
    """The journal that books ``instruction`` though it was not carried out. ``journals`` are those that book it and
    are not reversed yet; ``others`` the instructions of the same payment."""
    if instruction is None:
        return Refusal("there is no such instruction", is_null=True)
    if instruction.state == InstructionState.SUCCEEDED:
        return Refusal("the instruction SUCCEEDED: its journal stands", is_null=True)
    if not journals:
        return Refusal("no journal books the instruction", is_null=True)
    if instruction.state == InstructionState.PROCESSING:
        return Refusal("the instruction is under way: its result is not known")
    journal = journals[0]
    booked = bookings_of(journal)
    if any(booking.leg is not Leg.LOCAL for booking in booked):
        return Refusal("its journal is joined to one on another slot")
    done = {ins.id for ins in others if ins.state == InstructionState.SUCCEEDED}
    also = [booking.instruction_id for booking in booked if booking.instruction_id in done]
    if also:
        return Refusal(f"its journal also books {also[0]}, which SUCCEEDED")
    return journal


def ref_of(account: Account) -> AccountRef:
    """The account as journals name it."""
    kind, _, channel = account.account_key.split("/")[-2].partition(":")
    return AccountRef(account.slot, account.owner_id, AccountKind(kind), account.currency, channel)


def opposite(journal: Journal, postings: Sequence[tuple[AccountRef, Entry]]) -> Draft:
    """What undoes a journal, entry by entry. It books no instruction: what it undoes was none's."""
    draft = Draft(journal.slot, journal.currency)
    draft.postings = [(ref, -entry.amount_minor) for ref, entry in postings]
    return draft


def id_in(text: str, prefix: str) -> str:
    """The id of that kind which a request names; empty where it names none."""
    return text if is_id(text, prefix) else ""
