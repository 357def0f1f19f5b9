"""When a stray charge may be given back; no interleaving of events, calls, timers and crashes does it twice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from channel_gateway import stray
from channel_gateway.channel_order import ChannelOrderState, ProviderResult, ResultStatus, Source
from channel_gateway.commands import ApplyResult, MarkSending
from channel_gateway.compensation_commands import DESK, EndOrAskLater, GiveBack, LookAtRefund, TakeCompensation
from channel_gateway.originals import is_repair, refundable_minor
from channel_gateway.tables import ChannelDoubt, ChannelOrder, Compensation
from paykit import compensation
from paykit.compensation import Outcome
from paykit.context import mint
from paykit.ids import new_id
from paykit.store.command import Origin
from paymesh.event.v1 import compensation_pb2
from paymesh.recon.v1 import repair_pb2
from tests.channel_gateway.orders import NOW_MS, POLICY, SLOT, make_order
from tests.pay_core.ledger_desk import Desk

FAILED = {"state": "FAILED", "due_at_ms": None, "finished_at_ms": NOW_MS, "provider_reference": "ref-1"}


def doubt_of(order: ChannelOrder, **changes: Any) -> ChannelDoubt:
    """The confirmed doubt of a charge that counts as failed."""
    doubt = ChannelDoubt(
        id=new_id("dbt", SLOT, NOW_MS),
        slot=SLOT,
        biz_id=order.biz_id,
        doubt_key=f"{order.id}/{order.channel}/1",
        channel_order_id=order.id,
        payment_id=order.payment_id,
        channel=order.channel,
        attempt_no=1,
        state="CONFIRMED",
        type="LATE",
        amount_minor=1_000,
        currency="EUR",
        provider_reference="ref-1",
        evidence="taken after all",
        ask_count=1,
        due_at_ms=None,
        context=order.context,
        opened_at_ms=NOW_MS,
        resolved_at_ms=NOW_MS,
    )
    return msgspec.structs.replace(doubt, **changes)


def refund_of(order: ChannelOrder, doubt: ChannelDoubt, **changes: Any) -> ChannelOrder:
    """The order of a repair that gives it back."""
    made = stray.refund(new_id("chn", SLOT, NOW_MS), new_id("rpr", SLOT, NOW_MS), order, doubt, order.context, NOW_MS)
    return msgspec.structs.replace(made, **changes)


def test_a_stray_charge_is_given_back_by_the_channel_that_took_it() -> None:
    order = make_order(state="SUCCEEDED", channel="b", provider_reference="ref-b", attempt_no=2)
    doubt = doubt_of(order, channel="a", type="DUPLICATE", provider_reference="ref-a", amount_minor=900)
    assert stray.flaw(doubt, order, []) is None
    refund = refund_of(order, doubt)
    assert (refund.kind, refund.state, refund.channel, refund.amount_minor) == ("REFUND", "ACCEPTED", "a", 900)
    assert (refund.original_channel_order_id, refund.original_provider_reference) == (order.id, "ref-a")
    assert is_repair(refund)
    assert (refund.provider_reference, refund.send_count, refund.route, refund.token) == ("", 0, None, "")
    # What the order itself took may be refunded in full all the same.
    assert refundable_minor(order, [refund]) == order.amount_minor


@pytest.mark.parametrize(
    ("doubted", "ordered", "outcome"),
    [
        ({"state": "DISMISSED"}, {}, Outcome.NOTHING_TO_DO),
        ({"state": "OPEN"}, {}, None),
        ({"type": "DENIED"}, {}, Outcome.REFUSED),
        ({"type": "AMOUNT"}, {}, Outcome.REFUSED),
        ({}, {"kind": "PAYOUT"}, Outcome.REFUSED),
        ({"amount_minor": 0}, {}, Outcome.REFUSED),
    ],
)
def test_what_is_no_confirmed_stray_charge_is_not_given_back(
    doubted: dict[str, Any], ordered: dict[str, Any], outcome: Outcome | None
) -> None:
    order = make_order(**(FAILED | ordered))
    flaw = stray.flaw(doubt_of(order, **doubted), order, [])
    assert flaw is not None
    assert flaw.outcome is outcome


def test_one_refund_that_has_not_failed_is_enough() -> None:
    order = make_order(**FAILED)
    doubt = doubt_of(order)
    for state, is_enough in (("ACCEPTED", True), ("UNKNOWN", True), ("SUCCEEDED", True), ("FAILED", False)):
        flaw = stray.flaw(doubt, order, [refund_of(order, doubt, state=state)])
        assert (flaw is not None) == is_enough, state
    # An ordinary refund of the same order, or one of another stray charge of it, is none of this one.
    ordinary = refund_of(order, doubt, instruction_id=new_id("ins", SLOT, NOW_MS))
    assert stray.flaw(doubt, order, [ordinary]) is None
    assert stray.flaw(doubt, order, [refund_of(order, doubt, original_provider_reference="ref-2")]) is None


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (ProviderResult(status=ResultStatus.SUCCEEDED, amount_minor=1_000, currency="EUR"), "stands"),
        (ProviderResult(status=ResultStatus.SUCCEEDED, amount_minor=999), Outcome.REFUSED),
        (ProviderResult(status=ResultStatus.SUCCEEDED, currency="USD"), Outcome.REFUSED),
        (ProviderResult(status=ResultStatus.SUCCEEDED, provider_reference="ref-9"), Outcome.REFUSED),
        (ProviderResult(status=ResultStatus.FAILED), Outcome.NOTHING_TO_DO),
        (ProviderResult(status=ResultStatus.NOT_FOUND), None),
        (ProviderResult(status=ResultStatus.UNKNOWN), None),
        (ProviderResult(status=ResultStatus.PENDING), None),
        (None, None),
    ],
)
def test_the_provider_must_stand_by_it_when_it_is_asked_once_more(
    answer: ProviderResult | None, outcome: Outcome | str | None
) -> None:
    verdict = stray.stands(doubt_of(make_order(**FAILED)), answer)
    assert (verdict is None) == (outcome == "stands")
    assert verdict is None or verdict.outcome is outcome


class Returns(RuleBasedStateMachine):
    """Several repairs of one stray charge: their events and calls come in any order and twice; every process that fires
    may have read its row long ago, and may die between any two of its transactions."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(NOW_MS)
        self.order = make_order(**FAILED)
        self.doubt = doubt_of(self.order)
        self.desk.rows[ChannelOrder] = {self.order.id: self.order}
        self.desk.rows[ChannelDoubt] = {self.doubt.id: self.doubt}
        self.requests = [
            compensation.Compensation(
                repair_id=new_id("rpr", SLOT, NOW_MS + number),
                break_id=new_id("brk", SLOT, NOW_MS),
                kind=repair_pb2.REPAIR_KIND_REFUND,
                service="channel_gateway",
                subject_id=self.doubt.id,
            )
            for number in range(2)
        ]
        self.stale: list[Compensation] = []  # rows as processes have read them
        self.moved: dict[str, str] = {}  # what the provider did with each refund it was sent, by order

    def _timer(self) -> Origin:
        return Origin.timer(mint(SLOT, NOW_MS, caller="timer"))

    @rule(which=st.integers(0, 1), message=st.integers(0, 2), is_call=st.booleans())
    def take(self, which: int, message: int, is_call: bool) -> None:
        """A repair comes, by event or by call."""
        request, context = self.requests[which], mint(SLOT, NOW_MS, caller="recon")
        origin = Origin.event(context, compensation.CONSUMER, f"{request.repair_id}-{message}")
        if is_call:
            origin = Origin.rpc(context, "Compensate", request.repair_id, request.repair_id, request)
        self.desk.run(TakeCompensation(origin, request))
        self.stale += self.desk.all(Compensation)

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), stands=st.sampled_from(["stands", "later", "gone"]))
    def step(self, data: st.DataObject, stands: str) -> None:
        """A process goes on with a row as it read it once, and gets one of three answers of the provider."""
        row = data.draw(st.sampled_from(self.stale))
        if row.state == "WAITING":
            self.desk.run(LookAtRefund(self._timer(), row))
        elif stands == "stands":
            self.desk.run(GiveBack(self._timer(), row, self.doubt))
        else:
            outcome = None if stands == "later" else Outcome.NOTHING_TO_DO
            self.desk.run(EndOrAskLater(self._timer(), row, outcome, "as it says"))
        self.stale += [found for found in self.desk.all(Compensation) if found not in self.stale]

    @rule(status=st.sampled_from([ResultStatus.SUCCEEDED, ResultStatus.FAILED, ResultStatus.UNKNOWN]))
    def send(self, status: ResultStatus) -> None:
        """The refunds that are to be sent go out; what a provider did with one it says every time."""
        for order in self.desk.all(ChannelOrder):
            if not is_repair(order) or order.state in ("SUCCEEDED", "FAILED"):
                continue
            if order.state == "ACCEPTED":
                self.desk.run(MarkSending(self._timer(), order.id, POLICY))
                self.moved[order.id] = "FAILED" if status is ResultStatus.FAILED else "SUCCEEDED"
                said = status
            else:
                said = ResultStatus(self.moved[order.id])
            source = Source.REPLY if order.state == "ACCEPTED" else Source.QUERY
            result = ProviderResult(status=said, failure_reason="NO" if said is ResultStatus.FAILED else "")
            self.desk.run(ApplyResult(self._timer(), order.id, POLICY, result, source, self.desk.now_ms))

    @rule(ms=st.integers(1, 400_000))
    def wait(self, ms: int) -> None:
        """Time passes."""
        self.desk.now_ms += ms

    @invariant()
    def it_is_given_back_at_most_once(self) -> None:
        refunds = [order for order in self.desk.all(ChannelOrder) if is_repair(order)]
        standing = [order for order in refunds if order.state != ChannelOrderState.FAILED]
        assert len(standing) <= 1
        assert sum(1 for done in self.moved.values() if done == "SUCCEEDED") <= 1
        assert len({order.instruction_id for order in refunds}) == len(refunds)

    @invariant()
    def each_repair_says_once_what_became_of_it(self) -> None:
        told = [
            compensation_pb2.CompensationDoneEvent.FromString(message.body).result
            for message in self.desk.messages
            if message.destination == DESK.subject
        ]
        ended = {row.repair_id: row for row in self.desk.all(Compensation) if row.state == "ENDED"}
        assert sorted(result.repair_id for result in told) == sorted(ended)
        for row in ended.values():
            refund = self.desk.rows[ChannelOrder].get(row.effect_id)
            assert (row.outcome == "DONE") == (refund is not None and refund.state == "SUCCEEDED")  # type: ignore[attr-defined]


Returns.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestReturns = Returns.TestCase
