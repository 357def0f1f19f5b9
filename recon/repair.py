"""Repairs: what makes each kind of difference good again, who does it, and what needs nobody's consent. Pure.

A break has one repair at a time. Recon never edits what another service has: the service that owns it carries the
repair out by its own command, once per repair id, and says what it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from paykit.ids import is_id
from paykit.state_machine import StateMachine
from recon.matching import BreakType, MatchKind, shared_id
from recon.tables import Break, Repair

TRADE_CORE = "trade_core"
PAY_CORE = "pay_core"
CHANNEL_GATEWAY = "channel_gateway"

BY_RULE = "rule"  # who proposes and approves what is automatic; no certificate may be called that


class RepairKind(StrEnum):
    """What is done. The names are those of the proto."""

    QUERY = "QUERY"  # the provider is asked again
    COMPLETE = "COMPLETE"  # the result that the neighbour has is taken
    REFUND = "REFUND"  # a stray charge is given back by its own channel
    REVERSE = "REVERSE"  # a journal is undone by the opposite one
    ADJUST = "ADJUST"  # EXTERNAL is set right, against SUSPENSE


class RepairState(StrEnum):
    """Where a repair is. The names are those of the proto."""

    PROPOSED = "PROPOSED"
    APPROVED = "APPROVED"
    SENT = "SENT"
    DONE = "DONE"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    WITHDRAWN = "WITHDRAWN"


class Outcome(StrEnum):
    """What the service that carried a repair out says. The names are those of the proto."""

    DONE = "DONE"
    NOTHING_TO_DO = "NOTHING_TO_DO"  # it was right already, or never happened
    REFUSED = "REFUSED"


_S = RepairState
REPAIR = StateMachine(
    "repair",
    RepairState,
    _S.PROPOSED,
    {
        # WITHDRAWN: its break was closed before anything was sent.
        _S.PROPOSED: frozenset({_S.APPROVED, _S.REJECTED, _S.WITHDRAWN}),
        _S.APPROVED: frozenset({_S.SENT, _S.WITHDRAWN}),
        _S.SENT: frozenset({_S.DONE, _S.FAILED}),
        _S.DONE: frozenset(),
        _S.FAILED: frozenset(),
        _S.REJECTED: frozenset(),
        _S.WITHDRAWN: frozenset(),
    },
)


class Remedy(NamedTuple):
    """The repair of a type of break, and the service that carries it out."""

    kind: RepairKind
    service: str


_QUERY = Remedy(RepairKind.QUERY, CHANNEL_GATEWAY)
_COMPLETE = Remedy(RepairKind.COMPLETE, PAY_CORE)
_REFUND = Remedy(RepairKind.REFUND, CHANNEL_GATEWAY)
_ADJUST = Remedy(RepairKind.ADJUST, PAY_CORE)

# One for every type …
REMEDIES: Mapping[BreakType, Remedy] = {
    BreakType.RESULT_UNKNOWN: _QUERY,
    BreakType.NOTIFICATION_MISMATCH: _QUERY,
    BreakType.MISSING_THERE: _QUERY,
    BreakType.MISSING_FIRST: _COMPLETE,
    BreakType.MISSING_SECOND: _COMPLETE,
    BreakType.LATE: _REFUND,
    BreakType.DUPLICATE: _REFUND,
    BreakType.MISSING_HERE: _ADJUST,
    BreakType.AMOUNT_MISMATCH: _ADJUST,
    BreakType.CURRENCY_MISMATCH: _ADJUST,
    BreakType.STATUS_MISMATCH: _ADJUST,
    BreakType.UNEXPLAINED: _ADJUST,
}

# … and what differs by the two records that should agree.
EXCEPTIONS: Mapping[tuple[BreakType, MatchKind], Remedy] = {
    (BreakType.MISSING_FIRST, MatchKind.TRADE_PAY): Remedy(RepairKind.COMPLETE, TRADE_CORE),
    (BreakType.MISSING_FIRST, MatchKind.PAY_LEDGER): Remedy(RepairKind.REVERSE, PAY_CORE),
    (BreakType.MISSING_SECOND, MatchKind.PAY_CHANNEL): _QUERY,
    # A statement alone gives nothing back: what the provider stands by when it is asked has a break of its own.
    (BreakType.DUPLICATE, MatchKind.STATEMENT): _QUERY,
    (BreakType.LATE, MatchKind.STATEMENT): _QUERY,
}

# What only asks runs by itself, whatever the amount: money is moved by what is found, under the rules of its owner.
ASKING = frozenset({RepairKind.QUERY, RepairKind.COMPLETE})


class RepairRules(msgspec.Struct, frozen=True):
    """What is automatic, and how long is waited; in milliseconds and minor units.

    ``up_to_minor`` (by currency) bounds what moves or posts money without a person; ``up_to_minor_by_type`` stands
    before it. Nothing is automatic where neither names the currency.
    """

    delay_ms: int  # before an automatic repair goes out: a late match may still close the break
    answer_ms: int  # the first wait for what was done; doubles with each question
    answer_max_ms: int
    look_ms: int  # how often a proposal that waits for a person is compared with its break
    up_to_minor: Mapping[str, int]
    up_to_minor_by_type: Mapping[BreakType, Mapping[str, int]]

    def bound_minor(self, type_: str, currency: str) -> int:
        """Up to which amount a repair of a type runs by itself, where it moves or posts money."""
        by_type = self.up_to_minor_by_type.get(BreakType(type_), {})
        return by_type.get(currency, self.up_to_minor.get(currency, 0))

    def next_ask_ms(self, ask_count: int) -> int:
        """How long to wait for the answer after ``ask_count`` questions."""
        return int(min(self.answer_max_ms, self.answer_ms * 2 ** min(ask_count, 32)))


def remedy_of(type_: str, match_kind: str) -> Remedy:
    """What repairs a break of a type, between the two records of a kind."""
    wrong = BreakType(type_)
    return EXCEPTIONS.get((wrong, MatchKind(match_kind)), REMEDIES[wrong])


def instruction_in(row: Break | Repair) -> str:
    """The instruction that a break or its repair is about; empty where it is about something else."""
    shared = shared_id(row.match_key)
    return shared if is_id(shared, "ins") else ""


def amount_of(broken: Break, kind: RepairKind) -> int:
    """What a repair is over where nobody says otherwise: the difference, with its sign, of an ADJUST; else what is at
    risk. Zero where that is not known."""
    return broken.difference_minor if kind is RepairKind.ADJUST else broken.amount_minor


def obstacle(broken: Break, kind: RepairKind, amount_minor: int) -> str:
    """Why a break cannot be repaired as it is, for people; empty where it can."""
    if kind is RepairKind.ADJUST:
        if not broken.channel:
            return "it names no channel whose account could be set right"
        if not amount_minor or not broken.currency:
            return "the difference is not known: it has to be stated"
    elif kind is RepairKind.REFUND:
        if not is_id(broken.subject_id, "dbt"):
            return "it names no stray charge that the channel has confirmed"
    elif kind is RepairKind.REVERSE:
        if not instruction_in(broken) or not broken.payment_id:
            return "it names no instruction whose journal could be undone"
    elif kind is RepairKind.COMPLETE:
        if not broken.payment_id:
            return "it names no payment"
    elif not (instruction_in(broken) or broken.channel_order_id or is_id(broken.subject_id, "dbt")):
        return "it names nothing that the provider could be asked about"
    return ""


def is_automatic(broken: Break, kind: RepairKind, rules: RepairRules) -> bool:
    """Whether the repair of a break runs by itself."""
    amount_minor = amount_of(broken, kind)
    if obstacle(broken, kind, amount_minor):
        return False
    return kind in ASKING or 0 < abs(amount_minor) <= rules.bound_minor(broken.type, broken.currency)


def closed_by(repair_id: str) -> str:
    """The reason with which a repair that is done closes its break."""
    return f"REPAIRED {repair_id}"


def is_wrong_after_all(repair: Repair) -> bool:
    """Whether a repair that was carried out after its break had been closed otherwise has made a difference itself.

    What was only asked agrees with everybody, and a stray charge that was given back was nobody's. But where the books
    were set right by a journal and by the late record as well, they are wrong by the journal.
    """
    return repair.kind in (RepairKind.ADJUST, RepairKind.REVERSE)
