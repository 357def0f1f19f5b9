"""Orders with parts through any history: every cent that came pays for something, or goes back, once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from paykit.errors import MeshError
from paykit.store.command import Command, Origin
from paykit.store.system import Outbox
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.pay.v1 import pay_service_pb2
from tests.paykit.store.memory import MemoryRows
from tests.trade_core.part_support import DAY_MS, OTHER_MERCHANT
from tests.trade_core.support import MERCHANT, NOW_MS, POLICY, a_context, a_result, an_order, an_origin, fresh
from trade_core import wire
from trade_core.commands import CloseTrade, CreateTrade, ExpireTrade, PayTrade, RepriceTrade
from trade_core.parts import PART_RELATIONS, PartInput
from trade_core.payments import REFUND, TRANSFER
from trade_core.refunds import RefundTrade, RetryRefund
from trade_core.results import ApplyPaymentResult
from trade_core.tables import PayAttempt, Trade, TradeRelation
from trade_core.trade import ATTEMPT, OVER, TRADE, PayMethod
from trade_core.types import Tool, TradeType
from trade_core.wire import TradeView

TOOLS = (Tool.CARD, Tool.WALLET, Tool.BALANCE)
MACHINES: dict[Any, Any] = {Trade: TRADE, PayAttempt: ATTEMPT}


class World(MemoryRows):
    """The rows of trade_core in a dictionary, and a plain count of the money that pay_core moved for them."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.told: dict[str, Any] = {}  # the latest that was told of each trade
        self.calls: dict[str, Any] = {}  # what pay_core was asked for, by attempt
        self.payments: dict[str, str] = {}  # the attempt of a payment that succeeded, by payment
        self.taken: dict[str, int] = {}  # what payments brought, by attempt
        self.returned: dict[tuple[str, str], int] = defaultdict(int)  # given back, by attempt that paid and part
        self.create(amount_minor=600)
        self.create(amount_minor=400, payee_id=OTHER_MERCHANT)
        split = [PartInput(amount_minor=each, currency="EUR", payee_id=MERCHANT) for each in (700, 299, 1)]
        self.create(trade_type=TradeType.SPLIT_PURCHASE, payee_id="", parts=split)
        dues = enumerate((100, 400, 500), start=1)
        plan = [PartInput(amount_minor=each, currency="EUR", due_at_ms=NOW_MS + day * DAY_MS) for day, each in dues]
        self.create(trade_type=TradeType.INSTALMENT_PLAN, parts=plan)

    def create(self, **changes: Any) -> None:
        self.run(CreateTrade(an_origin(), POLICY, an_order(**({"lines": ()} | changes))))

    def run(self, command: Command[Any]) -> None:
        """Carries out one command, or nothing of it where it is refused."""
        batch = self.load(self.now_ms, command)
        try:
            batch.decide(command)
        except MeshError:
            assert not batch.is_changed
            return
        for row_type, changes in batch.updates():
            for before, after in changes:
                self._check_move(row_type, before, after)
        self.keep(batch)
        self._ask(batch.outbox)

    def _check_move(self, row_type: type[Any], before: Any, after: Any) -> None:
        if before_state := getattr(before, "state", ""):
            machine = MACHINES[row_type]
            assert before_state == after.state or machine.allows(before_state, machine.states(after.state))

    def _ask(self, outbox: list[Outbox]) -> None:
        for row in outbox:
            if row.kind == "call" and row.destination == TRANSFER:
                transfer = pay_service_pb2.TransferRequest.FromString(row.body)
                assert sum(payee.amount.amount_minor for payee in transfer.payees) == transfer.amount.amount_minor
                self.calls[transfer.source_id] = transfer
            elif row.kind == "event":
                told = TradeEvent.FromString(row.body).trade
                if told.trade_id not in self.told or self.told[told.trade_id].version < told.version:
                    self.told[told.trade_id] = told
            else:
                assert row.destination == REFUND
                refund = pay_service_pb2.RefundRequest.FromString(row.body)
                self.calls[refund.source_id] = refund

    def step(self, action: str, pick: int, amount_minor: int) -> None:
        """One thing that may happen."""
        trades = self.all(Trade)
        trade_id = trades[pick % len(trades)].id
        method = PayMethod(TOOLS[amount_minor % 3], "" if amount_minor % 3 == 2 else "tok")
        if action == "pay":
            self.run(PayTrade(an_origin(), POLICY, trade_id, [method]))
        elif action == "part":
            part = PayMethod(method.tool, method.token, amount_minor, "EUR")
            self.run(PayTrade(an_origin(), POLICY, trades[pick % 2].id, [part], is_partial=True))
        elif action == "merge":
            ids = tuple(trade.id for trade in trades[:2])
            merge: Any = {"trade_type": TradeType.MERGED_PAYMENT, "payee_id": "", "merged_trade_ids": ids}
            self.create(
                **merge,
                amount_minor=sum(trade.amount_minor for trade in trades[:2]),
                pay_methods=(method,) * (pick % 2),
            )
        elif action == "reprice":
            self.run(RepriceTrade(an_origin(), POLICY, trade_id, "EUR", amount_minor, ""))
        elif action == "refund":
            self.run(RefundTrade(an_origin(), POLICY, trade_id, "EUR", amount_minor, ""))
        elif action == "close":
            self.run(CloseTrade(an_origin(), POLICY, trade_id, ""))
        elif action == "hear":
            waiting = [attempt for attempt in self.all(PayAttempt) if attempt.state == "PAYING"]
            if waiting:
                self._hear(waiting[pick % len(waiting)], is_success=amount_minor % 4 > 0)
        elif action == "time":
            self.now_ms += amount_minor * (500_000 if pick == 0 else 2_500)
            self.fire()

    def _hear(self, attempt: PayAttempt, is_success: bool) -> None:
        """A payment ends, and the news of it comes twice."""
        call = self.calls[attempt.id]
        result = a_result(attempt.id, is_success, call.amount.amount_minor)
        for _ in range(2):
            self.run(ApplyPaymentResult(Origin.event(a_context(), "test", fresh("msg")), POLICY, result))
        if not is_success:
            return
        if isinstance(call, pay_service_pb2.TransferRequest):
            self.payments[result.payment_id] = attempt.id
            self.taken[attempt.id] = call.amount.amount_minor
        else:
            self.returned[self.payments[call.payment_id], call.payee_reference] += call.amount.amount_minor

    def fire(self) -> None:
        """The timers whose time has come."""
        for trade in self.all(Trade):
            if trade.due_at_ms is not None and trade.due_at_ms <= self.now_ms:
                retry = trade.purpose and trade.state == "CREATED"
                command = RetryRefund if retry else ExpireTrade
                self.run(command(Origin.timer(a_context()), POLICY, trade.id))

    def parts_of(self, parent: Trade) -> list[Trade]:
        ids = [
            relation.child_trade_id
            for relation in self.all(TradeRelation)
            if relation.parent_trade_id == parent.id and relation.kind in PART_RELATIONS
        ]
        return [trade for trade in self.all(Trade) if trade.id in ids]

    def check(self) -> None:
        """What must hold at every step."""
        trades: list[Trade] = self.all(Trade)
        groups = {trade.id: trade for trade in trades if trade.trade_type == "MERGED_PAYMENT"}
        for trade in trades:
            assert min(trade.refunded_minor, trade.refundable_minor) >= 0
            assert trade.refunded_minor + trade.refundable_minor <= trade.paid_minor <= trade.amount_minor
            if trade.group_trade_id:
                assert trade.state == "CREATED"
                assert trade.due_at_ms is None
                assert groups[trade.group_trade_id].state not in OVER
            elif trade.state == "CREATED" and trade.trade_type not in ("SPLIT_PART", "INSTALMENT_PLAN"):
                assert trade.due_at_ms is not None, "nothing waits for ever"
            if trade.id in groups and trade.state not in OVER:
                assert {part.group_trade_id for part in self.parts_of(trade)} == {trade.id}
            self._check_parts(trade, self.parts_of(trade))
            if trade.state != "PAYING":
                shown, now = self.told[trade.id], wire.trade(TradeView(trade))
                sums = (shown.paid_minor, shown.refunded_minor, shown.refundable_minor)
                assert (shown.state, shown.reason) == (now.state, now.reason), "a list that follows the events is right"
                assert sums == (now.paid_minor, now.refunded_minor, now.refundable_minor)
        for attempt_id, taken_minor in self.taken.items():
            back = {part: minor for (paid_by, part), minor in self.returned.items() if paid_by == attempt_id}
            assert sum(back.values()) <= taken_minor, "more given back than was taken"
            payees = {payee.reference: payee.amount.amount_minor for payee in self.calls[attempt_id].payees}
            assert all(minor <= payees[part] for part, minor in back.items() if part)
        for call in self.calls.values():
            if isinstance(call, pay_service_pb2.RefundRequest) and call.payment_id in self.payments:
                payees = self.calls[self.payments[call.payment_id]].payees
                # What nobody wanted goes back whole; of what was paid for several, each part's own.
                assert call.is_repair or call.payee_reference in {payee.reference for payee in payees}

    def _check_parts(self, parent: Trade, own: list[Trade]) -> None:
        assert parent.part_count == len(own)
        is_merge = parent.trade_type == "MERGED_PAYMENT"
        if is_merge and parent.state in ("CLOSED", "FAILED"):
            return  # its orders go their own ways
        if parent.trade_type != "PURCHASE" and own:
            assert sum(part.amount_minor for part in own) == parent.amount_minor
        elif own and parent.state != "CLOSED":
            assert sum(part.amount_minor for part in own if part.state in ("PAYING", "PAID")) <= parent.amount_minor
        if is_merge and parent.state != "PAID":
            return
        paid = [part for part in own if part.state == "PAID"]
        assert parent.part_paid_count == len(paid)
        if paid:
            assert parent.paid_minor == sum(part.paid_minor for part in paid)
            assert parent.refundable_minor == 0

    def settle(self) -> None:
        """Everything under way ends, and every timer fires, until nothing is left to wait for."""
        for _ in range(60):
            waiting = [attempt for attempt in self.all(PayAttempt) if attempt.state == "PAYING"]
            for attempt in waiting:
                self._hear(attempt, is_success=True)
            self.now_ms += 30 * DAY_MS
            self.fire()
            if not waiting and all(trade.state in OVER for trade in self.all(Trade)):
                return
        raise AssertionError([(t.trade_type, t.state, t.due_at_ms) for t in self.all(Trade) if t.state not in OVER])

    def check_end(self) -> None:
        """That what was taken and not given back is what the paid orders keep."""
        kept_minor = 0
        for trade in self.all(Trade):
            is_leaf = not trade.part_paid_count and trade.trade_type != "REFUND"
            kept_minor += trade.paid_minor - trade.refunded_minor if is_leaf else 0
            if trade.state == "CLOSED":
                paid = [part for part in self.parts_of(trade) if part.state == "PAID" and part.parent_trade_id]
                assert all(part.refunded_minor == part.paid_minor for part in paid)
        assert kept_minor == sum(self.taken.values()) - sum(self.returned.values())


actions = st.sampled_from(
    ["pay", "pay", "part", "part", "merge", "refund", "reprice", "close", "hear", "hear", "hear", "time"]
)
steps = st.lists(st.tuples(actions, st.integers(0, 11), st.integers(1, 700)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_any_history_of_parts_keeps_the_money_laws(history: list[tuple[str, int, int]]) -> None:
    world = World()
    world.check()
    for step in history:
        world.step(*step)
        world.check()
    world.settle()
    world.check()
    world.check_end()
