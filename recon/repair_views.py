"""Repairs as the protos show them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from paymesh.common.v1 import money_pb2
from paymesh.event.v1 import compensation_pb2
from paymesh.ops.v1 import compensation_service_pb2
from paymesh.recon.v1 import repair_pb2
from recon.repair import Outcome, RepairKind, RepairState, instruction_in
from recon.tables import Repair
from recon.views import KINDS as MATCH_KINDS
from recon.views import TYPES

KINDS = {kind.value: repair_pb2.RepairKind.Value(f"REPAIR_KIND_{kind}") for kind in RepairKind}
STATES = {state.value: repair_pb2.RepairState.Value(f"REPAIR_STATE_{state}") for state in RepairState}
OUTCOMES = {outcome.value: repair_pb2.RepairOutcome.Value(f"REPAIR_OUTCOME_{outcome}") for outcome in Outcome}
OUTCOME_OF = {number: Outcome(name) for name, number in OUTCOMES.items()}


def repair_to_proto(row: Repair) -> repair_pb2.Repair:
    """A repair as the API shows it."""
    return repair_pb2.Repair(
        repair_id=row.id,
        break_id=row.break_id,
        biz_id=row.biz_id,
        break_type=TYPES[row.break_type],
        kind=KINDS[row.kind],
        state=STATES[row.state],
        service=row.service,
        channel=row.channel,
        payment_id=row.payment_id,
        amount=_amount(row),
        evidence=row.evidence,
        is_automatic=bool(row.is_automatic),
        proposed_by=row.proposed_by,
        proposal=row.proposal,
        decided_by=row.decided_by,
        decision=row.decision,
        outcome=OUTCOMES.get(row.outcome, repair_pb2.REPAIR_OUTCOME_UNSPECIFIED),
        detail=row.detail,
        effect_id=row.effect_id,
        propose_time=_timestamp(row.proposed_at_ms),
        decide_time=_timestamp(row.decided_at_ms),
        send_time=_timestamp(row.sent_at_ms),
        finish_time=_timestamp(row.finished_at_ms),
        version=row.version,
    )


def compensation_of(row: Repair) -> compensation_service_pb2.Compensation:
    """A repair as the service that carries it out needs it; the same at any time."""
    return compensation_service_pb2.Compensation(
        repair_id=row.id,
        break_id=row.break_id,
        kind=KINDS[row.kind],
        service=row.service,
        break_type=TYPES[row.break_type],
        match_kind=MATCH_KINDS[row.match_kind],
        payment_id=row.payment_id,
        instruction_id=instruction_in(row),
        channel_order_id=row.channel_order_id,
        subject_id=row.subject_id,
        channel=row.channel,
        amount=_amount(row),
        evidence=row.evidence,
        proposed_by=row.proposed_by,
        approved_by=row.decided_by,
        provider_reference=row.provider_reference,
    )


def requested(row: Repair) -> compensation_pb2.CompensationRequestedEvent:
    """The body of recon.compensation_requested."""
    return compensation_pb2.CompensationRequestedEvent(compensation=compensation_of(row))


def _amount(row: Repair) -> money_pb2.Money:
    return money_pb2.Money(currency_code=row.currency, amount_minor=row.amount_minor)


def _timestamp(ms: int | None) -> Timestamp | None:
    return None if ms is None else Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
