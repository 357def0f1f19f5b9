"""Cases: what a person must decide about a payment, who that is, and how it may be decided."""

from __future__ import annotations

from enum import StrEnum

from pay_core.tables import PaymentCase
from paykit.errors import FailedPrecondition
from paykit.state_machine import StateMachine


class CaseType(StrEnum):
    """Why a case was opened. The names are those of the proto."""

    REVERSAL_FAILED = "REVERSAL_FAILED"
    RELEASE_FAILED = "RELEASE_FAILED"
    OVERPAYMENT = "OVERPAYMENT"


class CaseState(StrEnum):
    """Where a case is. The names are those of the proto."""

    OPEN = "OPEN"
    RESOLVED = "RESOLVED"


class CaseResolution(StrEnum):
    """How a case is decided. The names are those of the proto."""

    RETRY = "RETRY"
    TO_BALANCE = "TO_BALANCE"
    ACCEPT = "ACCEPT"


CASE = StateMachine(
    "case",
    CaseState,
    CaseState.OPEN,
    {CaseState.OPEN: frozenset({CaseState.RESOLVED}), CaseState.RESOLVED: frozenset()},
)

# Who looks after a case, by its type.
OWNERS: dict[CaseType, str] = {
    CaseType.REVERSAL_FAILED: "payment-operations",
    CaseType.RELEASE_FAILED: "payment-operations",
    CaseType.OVERPAYMENT: "customer-refunds",
}

RESOLUTIONS: dict[CaseType, frozenset[CaseResolution]] = {
    CaseType.REVERSAL_FAILED: frozenset(CaseResolution),
    # Nothing was moved: there is nothing that could go to a balance.
    CaseType.RELEASE_FAILED: frozenset({CaseResolution.RETRY, CaseResolution.ACCEPT}),
    CaseType.OVERPAYMENT: frozenset(CaseResolution),
}

CASE_OPENED = "pay.case_opened"
CASE_RESOLVED = "pay.case_resolved"


def case_key(instruction_id: str, case_type: CaseType) -> str:
    """Unique: an instruction has one case of a type."""
    return f"{instruction_id}/{case_type}"


def resolved(
    case: PaymentCase, resolution: CaseResolution, reason: str, caller: str, now_ms: int, payment_id: str
) -> PaymentCase:
    """A decided case; ``payment_id`` is the new payment that carries the decision out, or empty.

    FailedPrecondition: RESOLUTION_NOT_POSSIBLE for its type, ILLEGAL_STATE where it is decided already.
    """
    if resolution not in RESOLUTIONS[CaseType(case.type)]:
        raise FailedPrecondition(
            f"a case of type {case.type} cannot be decided by {resolution}",
            reason="RESOLUTION_NOT_POSSIBLE",
            subject=case.id,
        )
    return CASE.move(
        case,
        CaseState.RESOLVED,
        resolution=resolution.value,
        reason=reason,
        resolved_by=caller,
        resolved_at_ms=now_ms,
        resolution_payment_id=payment_id,
    )
