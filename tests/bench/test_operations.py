"""When an operation has ended."""

from __future__ import annotations

from bench.operations import POSTED, SUCCEEDED, ended
from paymesh.event.v1 import events_pb2


def _posted(leg: events_pb2.BookingLeg.ValueType) -> bytes:
    booked = events_pb2.BookedInstruction(instruction_id="ins_1", leg=leg)
    return events_pb2.JournalEvent(payment_id="pay_1", instructions=[booked]).SerializeToString()


def test_a_transfer_across_slots_has_ended_when_its_money_is_received_and_not_when_it_is_sent() -> None:
    assert ended(POSTED, _posted(events_pb2.BOOKING_LEG_RECEIVED)) == "pay_1"
    assert ended(POSTED, _posted(events_pb2.BOOKING_LEG_SENT)) == ""
    assert ended(POSTED, _posted(events_pb2.BOOKING_LEG_LOCAL)) == ""


def test_other_operations_have_ended_when_their_payment_succeeded() -> None:
    event = events_pb2.PaymentEvent()
    event.payment.payment_id = "pay_2"
    assert ended(SUCCEEDED, event.SerializeToString()) == "pay_2"
