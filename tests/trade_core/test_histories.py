"""One order through any history of calls, messages and timers: what must always hold, holds after every step."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from paykit.errors import MeshError
from paykit.store.batch import Batch, LoadedSoFar
from paykit.store.command import Command, Origin
from paykit.store.row import Row
from paykit.store.system import CommandRecord, Outbox
from paymesh.event.v1.events_pb2 import TradeEvent
from tests.trade_core.support import NOW_MS, POLICY, a_context, a_payment, an_order, an_origin, fresh
from trade_core.commands import CloseTrade, CreateTrade, ExpireTrade, PayTrade
from trade_core.payments import REQUESTS, result_of
from trade_core.refunds import RefundTrade
from trade_core.results import ApplyPaymentResult, AskLater, PaymentRefused
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import ATTEMPT, TRADE, PayMethod
from trade_core.types import TradeType

MACHINES: dict[Any, Any] = {Trade: TRADE, PayAttempt: ATTEMPT}
EVENT_OF_STATE = {"PAID": "trade.trade_paid", "FAILED": "trade.trade_failed", "CLOSED": "trade.trade_closed"}


class World:
    """The rows of trade_core in a dictionary, and what it has sent. Commands are pure: no database is needed."""

    def __init__(self, trade_type: TradeType) -> None:
        self.rows: dict[type[Row], dict[str, Row]] = {}
        self.sent: list[Outbox] = []
        self.now_ms = NOW_MS
        self.payments: dict[str, Any] = {}  # how the payment of an attempt ended, by attempt
        payee_id = "shop" if trade_type is TradeType.PURCHASE else "user.bob"
        payee_id = "" if trade_type in (TradeType.TOP_UP, TradeType.CASH_OUT) else payee_id
        order = an_order(trade_type=trade_type, payee_id=payee_id, lines=(), time_to_live_ms=60_000)
        self.run(CreateTrade(an_origin(), POLICY, order))
        (self.trade_id,) = [trade.id for trade in self.all(Trade)]

    def all(self, row_type: type[Any]) -> list[Any]:
        """All rows of a table, in the order they were made."""
        return list(self.rows.get(row_type, {}).values())

    def get(self, row_type: type[Any], id_: str) -> Any:
        """One row."""
        return self.rows[row_type][id_]

    def run(self, command: Command[Any]) -> None:
        """Carries out one command, or nothing of it where it is refused."""
        batch = Batch(self.now_ms, 5_000)
        while missing := batch.missing(set(command.reads(LoadedSoFar(batch)))):
            for (row_type, column), values in missing.items():
                found = [row for row in self.all(row_type) if getattr(row, column) in values]
                batch.table(row_type).add_loaded(column, values, found)
        if command.origin.key in self.rows.get(CommandRecord, {}):
            return
        try:
            batch.decide(command)
        except MeshError:
            assert not batch.updates()
            assert not batch.inserts()
            return
        for row_type, rows in batch.inserts():
            self.rows.setdefault(row_type, {}).update({row.id: row for row in rows})
        for row_type, changes in batch.updates():
            for before, after in changes:
                assert self.rows[row_type][before.id] is before
                assert not hasattr(before, "state") or self._is_legal(row_type, before, after)
                self.rows[row_type][after.id] = after
        self.sent += batch.outbox

    def _is_legal(self, row_type: type[Any], before: Any, after: Any) -> bool:
        machine = MACHINES[row_type]
        is_allowed: bool = before.state == after.state or machine.allows(before.state, machine.states(after.state))
        return is_allowed and after.version > before.version

    def step(self, action: str, pick: int, amount_minor: int) -> None:
        """One thing that may happen to the order."""
        context, message = a_context(), Origin.event(a_context(), "test", fresh("msg"))
        attempts = self.all(PayAttempt)
        attempt_id = attempts[-1 - pick % len(attempts)].id if attempts else ""
        if action == "pay":
            spec = POLICY.catalogue.spec(self.get(Trade, self.trade_id).trade_type)
            (tool, *_) = sorted(spec.tools)
            self.run(PayTrade(an_origin(), POLICY, self.trade_id, [PayMethod(tool, "tok")]))
        elif action == "refund":
            self.run(RefundTrade(an_origin(), POLICY, self.trade_id, "EUR", amount_minor, ""))
        elif action == "close":
            self.run(CloseTrade(an_origin(), self.trade_id, ""))
        elif action == "time":
            self.now_ms += amount_minor * 60
            self.run(ExpireTrade(Origin.timer(context), self.trade_id))
        elif attempt_id and action == "ask":
            self.run(AskLater(Origin.timer(context), POLICY, attempt_id, ""))
        elif attempt_id and action == "refused" and attempt_id not in self.payments:
            self.run(PaymentRefused(message, POLICY, attempt_id, "NO"))
        elif attempt_id and action in ("succeeded", "failed"):
            self._hear(attempt_id, action == "succeeded", message)

    def _hear(self, attempt_id: str, is_success: bool, message: Origin) -> None:
        """The news of a payment: of the one that ended, or of another outcome, which must have no effect."""
        amount_minor = self.get(Trade, self.get(PayAttempt, attempt_id).trade_id).amount_minor
        payment = a_payment(attempt_id, is_success, amount_minor)
        known = self.payments.setdefault(attempt_id, payment)
        result = result_of(known if known.state == payment.state else payment)
        assert result is not None
        command = ApplyPaymentResult(message, POLICY, result)
        self.run(command)
        self.run(command)  # the same message again

    def check(self) -> None:
        """What must always hold."""
        attempts = self.all(PayAttempt)
        for trade in self.all(Trade):
            states = Counter(attempt.state for attempt in attempts if attempt.trade_id == trade.id)
            assert states["EFFECTIVE"] == (trade.state == "PAID")
            assert states["PAYING"] == (trade.state == "PAYING")
            assert (trade.due_at_ms is None) == TRADE.is_terminal(trade.state)
            assert trade.attempt_count == sum(states.values())
        calls = [row for row in self.sent if row.kind == "call"]
        sources = [getattr(REQUESTS[row.destination].FromString(row.body), "source_id", "") for row in calls]
        assert sorted(sources) == sorted(attempt.id for attempt in attempts), "each attempt is one call"
        told = {
            TradeEvent.FromString(row.body).trade.trade_id: row.destination for row in self.sent if row.kind == "event"
        }
        assert len(told) == len(self.sent) - len(calls), "each trade ends once"
        assert told == {t.id: EVENT_OF_STATE[t.state] for t in self.all(Trade) if TRADE.is_terminal(t.state)}
        self._check_refunds()

    def _check_refunds(self) -> None:
        order = self.get(Trade, self.trade_id)
        refunds = [trade for trade in self.all(Trade) if trade.parent_trade_id == order.id]
        done = sum(refund.amount_minor for refund in refunds if refund.state == "PAID")
        begun = sum(refund.amount_minor for refund in refunds if refund.state == "PAYING")
        may_be_refunded = order.state == "PAID" and order.trade_type == "PURCHASE"
        assert order.refunded_minor == done
        assert order.refundable_minor == (order.amount_minor - done - begun if may_be_refunded else 0)
        assert may_be_refunded or not refunds


actions = st.sampled_from(
    ["pay", "pay", "succeeded", "succeeded", "failed", "refused", "refund", "ask", "time", "close"]
)
steps = st.lists(st.tuples(actions, st.sampled_from([0, 0, 0, 1, 2, 5]), st.integers(1, 1100)), max_size=25)
PAID = [("pay", 0, 0), ("succeeded", 0, 0)]  # how many a history begins: the most can happen after it
types = st.sampled_from([TradeType.PURCHASE, TradeType.PURCHASE, TradeType.TOP_UP, TradeType.CASH_OUT])


@settings(max_examples=300, deadline=None)
@given(types, st.booleans(), steps)
def test_any_history_keeps_what_must_hold(
    trade_type: TradeType, is_paid: bool, history: list[tuple[str, int, int]]
) -> None:
    world = World(trade_type)
    world.check()
    for step in (PAID if is_paid else []) + history:
        world.step(*step)
        world.check()
