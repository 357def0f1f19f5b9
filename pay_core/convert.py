"""Rows to protobuf messages."""

from __future__ import annotations

from pay_core.ledger import KIND_NUMBER, AccountKind, timestamp
from pay_core.payment import BALANCE, COUPON
from pay_core.tables import Account, Coupon, Entry, Hold, Instruction, Payment, PaymentCase
from paymesh.common.v1 import money_pb2
from paymesh.event.v1 import events_pb2
from paymesh.pay.v1 import ledger_service_pb2, payment_pb2

_OPERATION = {name.removeprefix("OPERATION_"): number for name, number in payment_pb2.Operation.items()}
_PAYMENT_STATE = {name.removeprefix("PAYMENT_STATE_"): number for name, number in payment_pb2.PaymentState.items()}
_INSTRUCTION_STATE = {
    name.removeprefix("INSTRUCTION_STATE_"): number for name, number in payment_pb2.InstructionState.items()
}
_DIRECTION = {name.removeprefix("DIRECTION_"): number for name, number in payment_pb2.Direction.items()}
_ACTION = {name.removeprefix("INSTRUCTION_ACTION_"): number for name, number in payment_pb2.InstructionAction.items()}
_SETTLEMENT_MODE = {
    name.removeprefix("SETTLEMENT_MODE_"): number for name, number in payment_pb2.SettlementMode.items()
}
_INSTRUMENT = {name.removeprefix("INSTRUMENT_"): number for name, number in payment_pb2.Instrument.items()} | {
    "": payment_pb2.INSTRUMENT_UNSPECIFIED
}
_CASE_TYPE = {name.removeprefix("CASE_TYPE_"): number for name, number in payment_pb2.CaseType.items()}
_CASE_STATE = {name.removeprefix("CASE_STATE_"): number for name, number in payment_pb2.CaseState.items()}
_CASE_RESOLUTION = {
    name.removeprefix("CASE_RESOLUTION_"): number for name, number in payment_pb2.CaseResolution.items()
} | {"": payment_pb2.CASE_RESOLUTION_UNSPECIFIED}
_COUPON_FUNDER = {
    name.removeprefix("COUPON_FUNDER_"): number for name, number in ledger_service_pb2.CouponFunder.items()
}
_COUPON_STATE = {name.removeprefix("COUPON_STATE_"): number for name, number in ledger_service_pb2.CouponState.items()}
_HOLD_STATE = {name.removeprefix("HOLD_STATE_"): number for name, number in ledger_service_pb2.HoldState.items()}


def payment_proto(payment: Payment, chain: list[Instruction]) -> payment_pb2.Payment:
    """A payment with its chain."""
    message = payment_pb2.Payment(
        payment_id=payment.id,
        biz_id=payment.biz_id,
        operation=_OPERATION[payment.operation],
        state=_PAYMENT_STATE[payment.state],
        payer_id=payment.payer_id,
        amount=money_pb2.Money(currency_code=payment.currency, amount_minor=payment.amount_minor),
        source_id=payment.source_id,
        original_payment_id=payment.original_payment_id or "",
        refunded_minor=payment.refunded_minor,
        refunding_minor=payment.refunding_minor,
        failure_reason=payment.failure_reason,
        instructions=[instruction_proto(instruction) for instruction in chain],
        create_time=timestamp(payment.created_at_ms),
        version=payment.version,
        settlement_mode=_SETTLEMENT_MODE[payment.settlement_mode],
        captured_minor=payment.captured_minor,
        rules_version=payment.rules_version,
        accounting_date=payment.accounting_date,
        payer_fee_minor=payment.payer_fee_minor,
        payee_fee_minor=payment.payee_fee_minor,
    )
    if payment.expires_at_ms is not None:
        message.expire_time.CopyFrom(timestamp(payment.expires_at_ms))
    if payment.finished_at_ms is not None:
        message.finish_time.CopyFrom(timestamp(payment.finished_at_ms))
    return message


def instruction_proto(instruction: Instruction) -> payment_pb2.Instruction:
    """One instruction."""
    return payment_pb2.Instruction(
        instruction_id=instruction.id,
        seq=instruction.seq,
        direction=_DIRECTION[instruction.direction],
        action=_ACTION[instruction.action],
        tool=instruction.tool,
        state=_INSTRUCTION_STATE[instruction.state],
        amount=money_pb2.Money(currency_code=instruction.currency, amount_minor=instruction.amount_minor),
        owner_id=instruction.owner_id,
        channel=instruction.channel,
        channel_order_id=instruction.channel_order_id or "",
        failure_reason=instruction.failure_reason,
        reverses_instruction_id=instruction.reverses_id or "",
        reserve_instruction_id=instruction.reserve_id or "",
        reference=instruction.reference,
        unit_count=instruction.unit_count,
        moved_minor=instruction.moved_minor,
        attempt_no=instruction.attempt_no,
        account_kind=_account_kind(instruction),
        instrument=_INSTRUMENT[instruction.instrument],
        coupon_id=instruction.token if instruction.tool == COUPON else "",
    )


def submitted_event(payment_id: str, left: list[Instruction], now_ms: int) -> events_pb2.PaymentSubmittedEvent:
    """The body of pay.payment_submitted: the instructions that have ``left`` for their channels."""
    submitted = [
        events_pb2.SubmittedInstruction(
            instruction_id=ins.id, amount_minor=ins.amount_minor, currency_code=ins.currency
        )
        for ins in left
    ]
    return events_pb2.PaymentSubmittedEvent(
        payment_id=payment_id, instructions=submitted, submit_time=timestamp(now_ms)
    )


def _account_kind(instruction: Instruction) -> payment_pb2.AccountKind.ValueType:
    if instruction.tool != BALANCE:
        return payment_pb2.ACCOUNT_KIND_UNSPECIFIED
    return KIND_NUMBER[AccountKind(instruction.account_kind)]


def account_proto(account: Account) -> ledger_service_pb2.Account:
    """One account."""
    return ledger_service_pb2.Account(
        account_id=account.id,
        owner_id=account.owner_id,
        kind=KIND_NUMBER[AccountKind(account.kind)],
        balance=money_pb2.Money(currency_code=account.currency, amount_minor=account.balance_minor),
        held_minor=account.held_minor,
        version=account.version,
        floor_minor=account.floor_minor,
        freeze_reason=account.freeze_reason,
        create_time=timestamp(account.created_at_ms),
    )


def hold_proto(hold: Hold) -> ledger_service_pb2.Hold:
    """One hold."""
    return ledger_service_pb2.Hold(
        hold_id=hold.id,
        account_id=hold.account_id,
        payment_id=hold.payment_id,
        instruction_id=hold.instruction_id,
        state=_HOLD_STATE[hold.state],
        amount=money_pb2.Money(currency_code=hold.currency, amount_minor=hold.amount_minor),
        captured_minor=hold.captured_minor,
        released_minor=hold.released_minor,
        expire_time=None if hold.expires_at_ms is None else timestamp(hold.expires_at_ms),
        create_time=timestamp(hold.created_at_ms),
        version=hold.version,
    )


def entry_proto(entry: Entry) -> ledger_service_pb2.Entry:
    """One entry."""
    return ledger_service_pb2.Entry(
        journal_id=entry.journal_id,
        account_id=entry.account_id,
        amount=money_pb2.Money(currency_code=entry.currency, amount_minor=entry.amount_minor),
        balance_after_minor=entry.balance_after_minor,
        payment_id=entry.payment_id,
        post_time=timestamp(entry.posted_at_ms),
        accounting_date=entry.accounting_date,
    )


def coupon_proto(coupon: Coupon) -> ledger_service_pb2.Coupon:
    """One coupon."""
    return ledger_service_pb2.Coupon(
        coupon_id=coupon.id,
        owner_id=coupon.owner_id,
        face_value=money_pb2.Money(currency_code=coupon.currency, amount_minor=coupon.face_value_minor),
        funder=_COUPON_FUNDER[coupon.funder],
        merchant_id=coupon.merchant_id,
        campaign=coupon.campaign,
        state=_COUPON_STATE[coupon.state],
        payment_id=coupon.payment_id,
        expire_time=timestamp(coupon.expires_at_ms),
        create_time=timestamp(coupon.created_at_ms),
        version=coupon.version,
    )


def case_proto(case: PaymentCase) -> payment_pb2.Case:
    """One case."""
    message = payment_pb2.Case(
        case_id=case.id,
        biz_id=case.biz_id,
        type=_CASE_TYPE[case.type],
        state=_CASE_STATE[case.state],
        payment_id=case.payment_id,
        instruction_id=case.instruction_id,
        amount=money_pb2.Money(currency_code=case.currency, amount_minor=case.amount_minor),
        owner=case.owner,
        evidence=case.evidence,
        resolution=_CASE_RESOLUTION[case.resolution],
        reason=case.reason,
        resolved_by=case.resolved_by,
        resolution_payment_id=case.resolution_payment_id,
        open_time=timestamp(case.opened_at_ms),
        version=case.version,
    )
    if case.resolved_at_ms is not None:
        message.resolve_time.CopyFrom(timestamp(case.resolved_at_ms))
    return message
