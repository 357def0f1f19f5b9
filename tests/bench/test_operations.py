"""When an operation has ended, and what it cost."""

from __future__ import annotations

import pytest

from bench.flow import Outcome
from bench.measure import Sample
from bench.operations import POSTED, SUCCEEDED, Measured, ended
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


def test_every_process_counts_once_in_what_an_operation_costs() -> None:
    processes = ("pay_core", "mariadb-1", "mariadb-2", "channel_gateway", "sandbox", "recon", "trade_core", "nats")
    used_s = dict.fromkeys((*processes, "load"), 0.1)
    shares = Measured(Outcome(Sample(1, 1, 1), count=100, cpu_s=0.1), used_s).shares()
    assert shares.pop("all") == pytest.approx(9.0)
    assert sum(shares.values()) == pytest.approx(9.0)
    assert shares["databases"] == pytest.approx(2.0)
