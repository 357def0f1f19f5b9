"""Histories of repairs: recon and pay_core with whatever lies between them lost, doubled, late and out of order.

Both services' own commands on rows in dictionaries. Nothing but rows and messages lies between two commands: whatever
comes next is what a process would find that starts after a crash.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from pay_core.adjustment_commands import DESK, TakeCompensation
from pay_core.tables import Account, Adjustment, Compensation
from paykit import context as business
from paykit.errors import FailedPrecondition, PermissionDenied
from paykit.store.command import Origin
from paykit.store.system import Outbox
from paymesh.event.v1 import compensation_pb2
from paymesh.recon.v1 import repair_service_pb2
from recon import repair_due
from recon.matching import BreakType, MatchKind
from recon.repair import REPAIR, Outcome
from recon.repair_commands import REQUESTED, AdvanceRepair, ApproveRepair, ProposeRepair, RejectRepair, TakeOutcome
from recon.repair_views import OUTCOME_OF, compensation_of
from recon.tables import Break, Repair
from tests.pay_core.ledger_desk import Desk
from tests.recon.repair_support import CloseByMatch, OpenBreak, rules_with
from tests.recon.support import NOW_MS, SLOT, mint

PEOPLE = ("ann@example.org", "bob@example.org", "ANN@example.org")
RULES = rules_with(automatic_up_to_minor={"EUR": 100})


class Repairs(RuleBasedStateMachine):
    """A few breaks of one slot, each of a known difference with the provider."""

    def __init__(self) -> None:
        super().__init__()
        self.recon, self.pay = Desk(NOW_MS), Desk(NOW_MS)
        self.context = business.BusinessContext(biz_id=mint("biz"), caller="test")
        self.number = 0

    def _timer(self) -> Origin:
        return Origin.timer(self.context)

    def _by(self, person: str, method: str, owner: str) -> Origin:
        self.number += 1
        request = repair_service_pb2.RejectRepairRequest(request_id=str(self.number))
        context = replace(self.context, caller=person)
        return Origin.rpc(context, method, owner, request.request_id, request)

    def _requests(self) -> list[Outbox]:
        return [row for row in self.recon.messages if row.destination == REQUESTED]

    # What people and matching do

    @precondition(lambda self: len(self.recon.all(Break)) < 4)
    @rule(difference_minor=st.sampled_from([-900, -50, 50, 900]))
    def open(self, difference_minor: int) -> None:
        """A difference is found."""
        kind = MatchKind.STATEMENT
        self.recon.run(
            OpenBreak(self.context, BreakType.MISSING_HERE, kind, RULES, difference_minor, payment_id="", subject_id="")
        )

    @precondition(lambda self: self.recon.all(Break))
    @rule(data=st.data(), person=st.sampled_from(PEOPLE))
    def propose(self, data: st.DataObject, person: str) -> None:
        """Somebody proposes."""
        broken = data.draw(st.sampled_from(self.recon.all(Break)))
        with contextlib.suppress(FailedPrecondition):
            self.recon.run(ProposeRepair(self._by(person, "P", broken.id), broken.id, "so it is", 0, RULES))

    @precondition(lambda self: self.recon.all(Repair))
    @rule(data=st.data(), person=st.sampled_from(PEOPLE), agrees=st.sampled_from([True, True, False]))
    def decide(self, data: st.DataObject, person: str, agrees: bool) -> None:
        """Somebody decides."""
        repair = data.draw(st.sampled_from(self.recon.all(Repair)))
        command = ApproveRepair if agrees else RejectRepair
        with contextlib.suppress(FailedPrecondition, PermissionDenied):
            self.recon.run(command(self._by(person, command.__name__, repair.id), repair.id, "seen"))

    @precondition(lambda self: any(row.state == "OPEN" for row in self.recon.all(Break)))
    @rule(data=st.data())
    def match(self, data: st.DataObject) -> None:
        """What was missing comes after all, and closes the break."""
        found = [row for row in self.recon.all(Break) if row.state == "OPEN" and row.type == "MISSING_HERE"]
        if found:
            self.recon.run(CloseByMatch(self.context, data.draw(st.sampled_from(found))))

    # What timers, the bus and calls do

    @rule(ms=st.sampled_from([1_000, 15_000, 60_000, 600_000]))
    def wait(self, ms: int) -> None:
        """Time passes."""
        self.recon.now_ms += ms
        self.pay.now_ms += ms

    @precondition(lambda self: self.recon.all(Repair))
    @rule(data=st.data(), hears=st.booleans())
    def fire(self, data: st.DataObject, hears: bool) -> None:
        """A timer of any process fires for a repair; where it asks, the answer may be lost."""
        repair = data.draw(st.sampled_from(self.recon.all(Repair)))
        if repair.state == "SENT" and repair.due_at_ms <= self.recon.now_ms:
            self._ask(repair, hears=hears)
        else:
            self.recon.run(AdvanceRepair(self._timer(), repair.id, RULES))

    def _ask(self, repair: Repair, *, hears: bool) -> None:
        request = compensation_of(repair)
        called = Origin.rpc(replace(self.context, caller="recon"), "Compensate", repair.id, repair.id, request)
        self.pay.run(TakeCompensation(called, request))
        (row,) = [found for found in self.pay.all(Compensation) if found.repair_id == repair.id]
        if hears:
            outcome = Outcome(row.outcome)
            command = TakeOutcome(self._timer(), repair.id, "pay_core", outcome, row.detail, row.effect_id, RULES)
            self.recon.run(command)
        else:
            self.recon.run(AdvanceRepair(self._timer(), repair.id, RULES))

    @precondition(lambda self: self._requests())
    @rule(data=st.data(), is_fresh=st.booleans())
    def deliver(self, data: st.DataObject, is_fresh: bool) -> None:
        """The bus brings a request; or a relay that did not know it was acknowledged has sent it anew."""
        message = data.draw(st.sampled_from(self._requests()))
        request = compensation_pb2.CompensationRequestedEvent.FromString(message.body).compensation
        message_id = f"{message.id}-{self.number}" if is_fresh else message.id
        self.number += is_fresh
        self.pay.run(TakeCompensation(Origin.event(self.context, "compensations", message_id), request))

    @precondition(lambda self: self.pay.messages)
    @rule(data=st.data(), is_fresh=st.booleans())
    def answer(self, data: st.DataObject, is_fresh: bool) -> None:
        """The bus brings what became of a repair."""
        told = [row for row in self.pay.messages if row.destination == DESK.subject]
        if told:
            self._hear(data.draw(st.sampled_from(told)), is_fresh=is_fresh)

    def _hear(self, message: Outbox, *, is_fresh: bool) -> None:
        result = compensation_pb2.CompensationDoneEvent.FromString(message.body).result
        outcome = OUTCOME_OF[result.outcome]
        message_id = f"{message.id}-{self.number}" if is_fresh else message.id
        self.number += is_fresh
        origin = Origin.event(self.context, repair_due.CONSUMER, message_id)
        details = (outcome, result.detail, result.effect_id, RULES)
        self.recon.run(TakeOutcome(origin, result.repair_id, result.service, *details))

    # What must hold at any moment

    def _balance(self, kind: str) -> int:
        return sum(row.balance_minor for row in self.pay.all(Account) if row.kind == kind)

    def _done(self) -> Iterable[Repair]:
        return [row for row in self.recon.all(Repair) if row.state == "DONE"]

    @invariant()
    def each_repair_is_done_once_and_nobody_does_what_was_not_sent(self) -> None:
        made = Counter(row.repair_id for row in self.pay.all(Adjustment))
        assert set(made.values()) <= {1}
        sent = {row.id for row in self.recon.all(Repair) if row.sent_at_ms is not None}
        assert set(made) <= sent
        assert {row.id for row in self._done()} <= set(made)
        total_minor = sum(row.amount_minor for row in self.pay.all(Adjustment))
        assert (self._balance("SUSPENSE"), self._balance("EXTERNAL")) == (total_minor, -total_minor)
        assert len(self._requests()) == len(sent)

    @invariant()
    def nothing_is_sent_that_one_person_agreed_with_alone(self) -> None:
        for repair in self.recon.all(Repair):
            if repair.sent_at_ms is not None:
                by = {repair.proposed_by.casefold(), repair.decided_by.casefold()}
                assert by == {"rule"} if repair.is_automatic else len(by) == 2
        under_way = Counter(row.break_id for row in self.recon.all(Repair) if not REPAIR.is_terminal(row.state))
        assert set(under_way.values()) <= {1}

    @invariant()
    def breaks_close_for_a_reason(self) -> None:
        for broken in self.recon.all(Break):
            assert (broken.state == "CLOSED") == bool(broken.close_reason)
            if broken.repair_id:
                repair = self.recon.rows[Repair][broken.repair_id]
                assert isinstance(repair, Repair)
                assert (repair.state, repair.break_id) == ("DONE", broken.id)

    def teardown(self) -> None:
        """Whatever was lost, in the end every repair that was sent is heard of, and every cent is explained."""
        for _ in range(3):
            for repair in [row for row in self.recon.all(Repair) if row.state == "SENT"]:
                self._ask(repair, hears=True)
        self.each_repair_is_done_once_and_nobody_does_what_was_not_sent()
        closed = {row.repair_id: row for row in self.recon.all(Break) if row.repair_id}
        again = [row for row in self.recon.all(Break) if row.type == "UNEXPLAINED"]
        for repair in self._done():
            if repair.id not in closed:  # a late match came first: the adjustment is a difference of its own
                (opened,) = [row for row in again if repair.id in row.evidence]
                assert opened.difference_minor == -repair.amount_minor
        assert all(row.slot == SLOT for row in self.recon.all(Break))


Repairs.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestRepairs = Repairs.TestCase
