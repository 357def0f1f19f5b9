"""What the provider says of a day: one line for each movement and each fee, true to its book or different by script.

Pure: a line depends on the entry, the account's fees, the seed and the script alone, so the same day is told in the
same way as often as it is asked for. A token names a difference for its order, ``tok_ok__statement_missing_line``; else
a rate of the script may choose one.

What a difference does to a file's own sums: the opening balance is the book's (less what was put off to this day); the
closing balance is the opening balance and the lines as they stand, so that a file is consistent in itself, except where
``wrong_closing`` or ``truncated`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

import msgspec

from channel_gateway.sandbox.behaviour import MARK, other_currency, roll, unknown_reference

DAY_MS = 86_400_000
# What moves money, and which way, seen from the account's owner.
SIGN: Mapping[str, int] = {"charge": 1, "capture": 1, "refund": -1, "payout": -1}
FEE = "FEE"
_WRONG_AMOUNT_MINOR_MAX = 500


class Difference(StrEnum):
    """How a statement can differ from the book: a line, or the file as a whole."""

    MISSING_LINE = "missing_line"
    EXTRA_LINE = "extra_line"  # beside the true one, with a reference that nobody has
    DUPLICATE_LINE = "duplicate_line"  # once more under a line id of its own
    REPEATED_LINE = "repeated_line"  # once more under the same line id
    WRONG_AMOUNT = "wrong_amount"
    WRONG_CURRENCY = "wrong_currency"
    SWAPPED_SIGN = "swapped_sign"
    NEXT_DAY = "next_day"  # booked a day later: the cut-off
    WRONG_CLOSING = "wrong_closing"
    TRUNCATED = "truncated"


OF_FILES = frozenset({Difference.WRONG_CLOSING, Difference.TRUNCATED})


class StatementScript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often which difference comes: of lines by reference, of files by account and date."""

    rates: dict[Difference, float] = {}

    def __post_init__(self) -> None:
        if any(not 0.0 <= rate <= 1.0 for rate in self.rates.values()):
            raise ValueError("a rate must lie between 0 and 1")


class Fee(msgspec.Struct, frozen=True, kw_only=True):
    """What the provider keeps of a movement: a share, rounded half up to the minor unit, and a fixed part."""

    basis_points: int = 0
    fixed_minor: int = 0

    def of(self, amount_minor: int) -> int:
        """The fee of a movement of so much."""
        return (amount_minor * self.basis_points + 5_000) // 10_000 + self.fixed_minor


NO_FEE = Fee()


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """One settled order of the book that moved money. ``amount_minor`` is positive."""

    sequence: int
    kind: str
    amount_minor: int
    currency: str
    reference: str
    provider_reference: str
    original_reference: str
    token: str
    copy_no: int
    settle_at_ms: int


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a statement. ``amount_minor`` is what the account gained, negative where it lost."""

    line_id: str  # "L" and the number in the book; "F" behind it: its fee, "D": a duplicate, "X": of an unknown order
    kind: str  # CHARGE, CAPTURE, REFUND, PAYOUT or FEE
    amount_minor: int
    currency: str
    reference: str
    provider_reference: str
    original_reference: str
    booked_on: date
    settle_at_ms: int


class Teller(msgspec.Struct, frozen=True, kw_only=True):
    """How one account's movements are told."""

    account: str
    seed: int
    script: StatementScript
    fees: Mapping[str, Fee]  # by kind, as the book has it

    def difference(self, movement: Movement) -> Difference | None:
        """What is told of a movement otherwise than it is, if anything. By rate the second booking of an order is never
        left out: it may be told nowhere else, and nobody could find it."""
        for mark in movement.token.split(MARK)[1:]:
            for difference in Difference:
                if mark.startswith(f"statement_{difference.value}"):
                    return difference
        return next(
            (
                difference
                for difference, rate in self.script.rates.items()
                if difference not in OF_FILES
                and not (difference is Difference.MISSING_LINE and movement.copy_no)
                and roll(self.seed, "statement", difference, self.account, movement.provider_reference) < rate
            ),
            None,
        )

    def differs(self, difference: Difference, day: date) -> bool:
        """Whether the file of a day as a whole is told otherwise."""
        rate = self.script.rates.get(difference, 0.0)
        return roll(self.seed, "statement", difference, self.account, day.isoformat()) < rate

    def lines(self, movement: Movement) -> list[Line]:
        """The lines that a movement becomes, in their order; their ``booked_on`` says on which day's statement."""
        line = Line(
            line_id=f"L{movement.sequence}",
            kind=movement.kind.upper(),
            amount_minor=SIGN[movement.kind] * movement.amount_minor,
            currency=movement.currency,
            reference=movement.reference,
            provider_reference=movement.provider_reference,
            original_reference=movement.original_reference,
            booked_on=date_of(movement.settle_at_ms),
            settle_at_ms=movement.settle_at_ms,
        )
        fee_minor = self.fees.get(movement.kind, NO_FEE).of(movement.amount_minor)
        told = [line]
        if fee_minor:
            told.append(msgspec.structs.replace(line, line_id=f"{line.line_id}F", kind=FEE, amount_minor=-fee_minor))
        difference = self.difference(movement)
        return told if difference is None else self._altered(difference, line, told)

    def _altered(self, difference: Difference, line: Line, told: list[Line]) -> list[Line]:
        replace = msgspec.structs.replace
        match difference:
            case Difference.MISSING_LINE:
                return told[1:]
            case Difference.EXTRA_LINE:
                return [*told, _unknown(line)]
            case Difference.DUPLICATE_LINE:
                return [*told, replace(line, line_id=f"{line.line_id}D")]
            case Difference.REPEATED_LINE:
                return [*told, line]
            case Difference.WRONG_AMOUNT:
                return [replace(line, amount_minor=self._wrong(line)), *told[1:]]
            case Difference.WRONG_CURRENCY:
                return [replace(line, currency=other_currency(line.currency)), *told[1:]]
            case Difference.SWAPPED_SIGN:
                return [replace(line, amount_minor=-line.amount_minor), *told[1:]]
            case Difference.NEXT_DAY:
                return [replace(one, booked_on=one.booked_on + timedelta(days=1)) for one in told]
            case _:
                return told  # of the file, not of a line

    def _wrong(self, line: Line) -> int:
        share = roll(self.seed, "statement", "by how much", line.provider_reference)
        error_minor = 1 + int(share * _WRONG_AMOUNT_MINOR_MAX)
        return line.amount_minor + (error_minor if line.amount_minor > 0 else -error_minor)


def told_in(currency: str, currencies: Iterable[str]) -> list[str]:
    """The currencies of the book from which lines can come that are told in ``currency``."""
    return sorted({currency, *(one for one in currencies if other_currency(one) == currency)})


def date_of(at_ms: int) -> date:
    """The UTC day of a moment."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).date()


def day_start_ms(day: date) -> int:
    """When a UTC day begins."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def _unknown(line: Line) -> Line:
    return msgspec.structs.replace(
        line,
        line_id=f"{line.line_id}X",
        reference=unknown_reference(line.reference),
        provider_reference=unknown_reference(line.provider_reference),
        original_reference="",
    )
