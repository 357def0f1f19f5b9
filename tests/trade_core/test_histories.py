"""One order through any history of calls, messages and timers: what must always hold, holds after every step."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from paykit.errors import MeshError
from paykit.store.command import Command, Origin
from paykit.store.system import Outbox
from paymesh.event.v1.events_pb2 import TradeEvent
from paymesh.pay.v1 import pay_service_pb2, payment_pb2
from tests.paykit.store.memory import MemoryRows
from tests.trade_core.support import NOW_MS, POLICY, a_context, a_payment, an_order, an_origin, fresh
from trade_core import wire
from trade_core.commands import CloseTrade, CreateTrade, ExpireTrade, PayTrade, RepriceTrade
from trade_core.holds import CaptureTrade, SettleHold, SettleRefused, VoidTrade
from trade_core.payments import CAPTURE, PAYING, REQUESTS, VOID, attempt_in, is_return, result_of
from trade_core.refunds import RefundTrade, RetryRefund
from trade_core.results import ApplyPaymentResult, AskLater, PaymentRefused
from trade_core.tables import PayAttempt, Trade
from trade_core.trade import ATTEMPT, OVER, TRADE, PayMethod
from trade_core.types import Settlement, Tool, TradeType
from trade_core.wire import TradeView

MACHINES: dict[Any, Any] = {Trade: TRADE, PayAttempt: ATTEMPT}
EVENT_OF_STATE = {"PAID": "trade.trade_paid", "FAILED": "trade.trade_failed", "CLOSED": "trade.trade_closed"}
HELD_TYPES = (TradeType.PRE_AUTHORIZATION, TradeType.ESCROW)
NOT_PAID_BY_PAYEES = (TradeType.TOP_UP, TradeType.CASH_OUT)
SUCCEEDED, FAILED = payment_pb2.PAYMENT_STATE_SUCCEEDED, payment_pb2.PAYMENT_STATE_FAILED
AUTHORIZED, VOIDED = payment_pb2.PAYMENT_STATE_AUTHORIZED, payment_pb2.PAYMENT_STATE_VOIDED
PROCESSING = payment_pb2.PAYMENT_STATE_PROCESSING


class World(MemoryRows):
    """The rows of trade_core in a dictionary, and what it has sent. Commands are pure: no database is needed."""

    def __init__(self, trade_type: TradeType) -> None:
        super().__init__()
        self.sent: list[Outbox] = []
        self.now_ms = NOW_MS
        self.payments: dict[str, Any] = {}  # by attempt: the payment as pay_core has it
        self.told: dict[str, list[Any]] = {}  # and all that it ever said of it
        self.taken: set[str] = set()  # captures and voids that pay_core has carried out or refused
        self.spec = POLICY.catalogue.spec(trade_type)
        order = an_order(
            trade_type=trade_type,
            payee_id="" if trade_type in NOT_PAID_BY_PAYEES else "user.bob",
            lines=(),
            time_to_live_ms=60_000,
            hold_time_to_live_ms=60_000 if trade_type in HELD_TYPES else 0,
        )
        self.run(CreateTrade(an_origin(), POLICY, order))
        (self.trade_id,) = [trade.id for trade in self.all(Trade)]

    def get(self, row_type: type[Any], id_: str) -> Any:
        """One row."""
        return self.rows[row_type][id_]

    def run(self, command: Command[Any]) -> None:
        """Carries out one command, or nothing of it where it is refused."""
        batch = self.load(self.now_ms, command)
        if self.is_recorded(command):
            return
        try:
            batch.decide(command)
        except MeshError:
            assert not batch.updates()
            assert not batch.inserts()
            return
        for row_type, changes in batch.updates():
            for before, after in changes:
                assert not hasattr(before, "state") or self._is_legal(row_type, before, after)
        self.keep(batch)
        self.sent += batch.outbox

    def _is_legal(self, row_type: type[Any], before: Any, after: Any) -> bool:
        machine = MACHINES[row_type]
        is_allowed: bool = before.state == after.state or machine.allows(before.state, machine.states(after.state))
        return is_allowed and after.version > before.version

    def step(self, action: str, pick: int, amount_minor: int) -> None:
        """One thing that may happen to the order."""
        attempts = self.all(PayAttempt)
        attempt_id = attempts[-1 - pick % len(attempts)].id if attempts else ""
        origin = an_origin()
        match action:
            case "pay":
                tools = sorted(self.spec.tools - {Tool.COUPON})
                self.run(PayTrade(origin, POLICY, self.trade_id, [PayMethod(tools[pick % len(tools)], "tok")]))
            case "wallet":
                self.run(PayTrade(origin, POLICY, self.trade_id, [PayMethod(Tool.WALLET, "tok")]))
            case "refund":
                self.run(RefundTrade(origin, POLICY, self.trade_id, "EUR", amount_minor, ""))
            case "close":
                self.run(CloseTrade(origin, POLICY, self.trade_id, ""))
            case "reprice":
                self.run(RepriceTrade(origin, POLICY, self.trade_id, "EUR", amount_minor, ""))
            case "capture":
                self.run(CaptureTrade(origin, POLICY, self.trade_id, "EUR", amount_minor, keep_rest=pick % 2 == 0))
            case "void":
                self.run(VoidTrade(origin, POLICY, self.trade_id, ""))
            case "time":
                self._pass_time(amount_minor * 60)
            case "succeed" | "fail" if attempt_id:
                self._end(attempt_id, is_success=action == "succeed")
            case "settle":
                self._settle(is_refused=pick == 2, is_failing=pick == 5)
            case "lapse" if attempt_id and self.payments.get(attempt_id) is not None:
                payment = self.payments[attempt_id]
                if payment.state == AUTHORIZED:  # pay_core's own time is up
                    self._say(payment, state=SUCCEEDED if payment.captured_minor else VOIDED)
            case "hear" if self.told.get(attempt_id):
                self._hear(self.told[attempt_id][-1 - pick % len(self.told[attempt_id])])
            case "refused" if attempt_id and attempt_id not in self.payments:
                self.run(PaymentRefused(self._message(), POLICY, attempt_id, "NO"))
                if self.get(PayAttempt, attempt_id).state == "FAILED":
                    self.payments[attempt_id] = None

    def _message(self) -> Origin:
        return Origin.event(a_context(), "test", fresh("msg"))

    def _pass_time(self, ms: int) -> None:
        self.now_ms += ms
        timer = Origin.timer(a_context())
        for trade in self.all(Trade):
            if trade.due_at_ms is None or trade.due_at_ms > self.now_ms:
                continue
            self.run(AskLater(timer, POLICY, trade.id, {}))
            self.run(ExpireTrade(timer, POLICY, trade.id))
            self.run(SettleHold(timer, POLICY, trade.id))
            self.run(RetryRefund(timer, POLICY, trade.id))
            after = self.get(Trade, trade.id)
            assert after.due_at_ms is None or after.due_at_ms > self.now_ms, "a timer that fires leads somewhere"

    def _say(self, payment: Any, **changes: Any) -> None:
        """pay_core's payment as it is from now on."""
        changed = payment_pb2.Payment()
        changed.CopyFrom(payment)
        changed.version += 1
        for name, value in changes.items():
            setattr(changed, name, value)
        self.payments[changed.source_id] = changed
        self.told.setdefault(changed.source_id, []).append(changed)

    def _end(self, attempt_id: str, *, is_success: bool) -> None:
        """pay_core ends a payment that is under way, or takes the money it is to hold."""
        if attempt_id in self.payments:
            return
        attempt = self.get(PayAttempt, attempt_id)
        spec = POLICY.catalogue.spec(self.get(Trade, attempt.trade_id).trade_type)
        payment = a_payment(attempt_id, is_success, attempt.amount_minor)
        if is_success and spec.settlement is not Settlement.IMMEDIATE:
            payment.settlement_mode = payment_pb2.SETTLEMENT_MODE_ESCROW
            payment.state = AUTHORIZED
        self._say(payment)

    def _settle(self, *, is_refused: bool, is_failing: bool) -> None:
        """pay_core takes the captures and voids that were sent; once is often enough."""
        for row in self.sent:
            if row.destination not in (CAPTURE, VOID):
                continue
            call: Any = REQUESTS[row.destination].FromString(row.body)
            if call.request_id in self.taken:
                continue
            self.taken.add(call.request_id)
            payment = self.payments[attempt_in(call)]
            left_minor = payment.amount.amount_minor - payment.captured_minor
            asked_minor = 0
            if isinstance(call, pay_service_pb2.CapturePaymentRequest):
                asked_minor = call.amount.amount_minor if call.HasField("amount") else left_minor
            if (is_refused and not is_return(call.request_id)) or payment.state != AUTHORIZED:
                result = result_of(payment)
                assert result is not None
                if payment.state == AUTHORIZED:
                    self.run(SettleRefused(self._message(), POLICY, call.request_id, result, "NO"))
                continue
            if is_failing and asked_minor:
                gone = SUCCEEDED if payment.captured_minor else FAILED
                self._say(payment, state=gone, failure_reason="AUTH_EXPIRED")
                continue
            captured = payment.captured_minor + asked_minor
            is_kept = getattr(call, "keep_rest", False) and captured < payment.amount.amount_minor
            state = AUTHORIZED if is_kept else SUCCEEDED if captured else VOIDED
            self._say(payment, captured_minor=captured, state=state)

    def _hear(self, payment: Any) -> None:
        """News, new or old, twice."""
        result = result_of(payment)
        assert result is not None
        command = ApplyPaymentResult(self._message(), POLICY, result)
        self.run(command)
        self.run(command)  # the same message again

    def hear_all(self) -> None:
        """Everything that pay_core has to say is heard."""
        for said in list(self.told.values()):
            self._hear(said[-1])

    def check(self) -> None:
        """What must always hold."""
        attempts = self.all(PayAttempt)
        for trade in self.all(Trade):
            states = Counter(attempt.state for attempt in attempts if attempt.trade_id == trade.id)
            assert states["EFFECTIVE"] == (trade.state == "PAID")
            assert states["AUTHORIZED"] == (trade.state in ("AUTHORIZED", "SETTLING"))
            assert states["PAYING"] == trade.open_attempt_count
            assert states["PAYING"] > 0 if trade.state == "PAYING" else trade.state != "CREATED" or not states["PAYING"]
            assert (trade.due_at_ms is None) == (trade.state in OVER and not states["PAYING"])
            assert trade.attempt_count == sum(states.values())
        calls = [row for row in self.sent if row.kind == "call" and row.destination in PAYING]
        requests: list[Any] = [REQUESTS[row.destination].FromString(row.body) for row in calls]
        assert sorted(call.source_id for call in requests) == sorted(item.id for item in attempts)
        self._check_events()
        self._check_refunds()
        self._check_returns()

    def _check_events(self) -> None:
        ended: dict[str, list[str]] = {}
        for row in self.sent:
            if row.kind == "event" and row.destination in EVENT_OF_STATE.values():
                ended.setdefault(TradeEvent.FromString(row.body).trade.trade_id, []).append(row.destination)
        for trade in self.all(Trade):
            told = ended.get(trade.id, [])
            reopened = ["trade.trade_closed", "trade.trade_paid"]
            expected = [EVENT_OF_STATE[trade.state]] if trade.state in OVER else []
            assert told in (expected, reopened if trade.state == "PAID" else expected), (trade, told)
        self._check_lists()

    def _check_lists(self) -> None:
        """A list that follows the events shows a trade at rest as it is; what is under way is told by its end."""
        last: dict[str, Any] = {}
        for row in self.sent:
            if row.kind == "event":
                told = TradeEvent.FromString(row.body).trade
                last[told.trade_id] = max(last.get(told.trade_id, told), told, key=lambda one: one.version)
        for trade in self.all(Trade):
            if trade.state not in ("PAYING", "SETTLING"):
                shown, now = last[trade.id], wire.trade(TradeView(trade))
                assert (shown.state, shown.amount, shown.reason) == (now.state, now.amount, now.reason), trade
                sums = (shown.paid_minor, shown.refunded_minor, shown.refundable_minor)
                assert sums == (now.paid_minor, now.refunded_minor, now.refundable_minor), trade

    def _check_refunds(self) -> None:
        order = self.get(Trade, self.trade_id)
        refunds = [trade for trade in self.all(Trade) if trade.parent_trade_id == order.id]
        asked = [refund for refund in refunds if not refund.purpose]
        done = sum(refund.amount_minor for refund in asked if refund.state == "PAID")
        begun = sum(refund.amount_minor for refund in asked if refund.state == "PAYING")
        may_be_refunded = order.state == "PAID" and TradeType.REFUND in self.spec.follow_ups
        assert order.refunded_minor == done
        assert order.refundable_minor == (order.paid_minor - done - begun if may_be_refunded else 0)
        assert may_be_refunded or not asked
        assert all(refund.state != "FAILED" for refund in refunds if refund.purpose), "a repair is never given up"

    def _check_returns(self) -> None:
        """Each payment that paid nothing goes back once: by a repair of its own, or by letting go what is held."""
        repairs = Counter(trade.repairs_attempt_id for trade in self.all(Trade) if trade.repairs_attempt_id)
        let_go = Counter(
            attempt_in(pay_service_pb2.VoidPaymentRequest.FromString(row.body))
            for row in self.sent
            if row.destination == VOID and is_return(pay_service_pb2.VoidPaymentRequest.FromString(row.body).request_id)
        )
        for attempt in self.all(PayAttempt):
            assert repairs[attempt.id] + let_go[attempt.id] == (attempt.state == "RETURNED")

    def check_money(self) -> None:
        """Once all is heard, what pay_core took is what the order was paid, or is on its way back."""
        order = self.get(Trade, self.trade_id)
        mine = {attempt.id for attempt in self.all(PayAttempt) if attempt.trade_id == order.id}
        payments = [payment for id_, payment in self.payments.items() if payment is not None and id_ in mine]
        results = [result_of(payment) for payment in payments]
        taken = sum(result.captured_minor for result in results if result is not None)
        repaired = sum(trade.amount_minor for trade in self.all(Trade) if trade.repairs_attempt_id)
        assert taken == order.paid_minor + repaired


WEIGHTS = {
    "pay": 2,
    "wallet": 2,
    "succeed": 3,
    "fail": 1,
    "hear": 4,
    "settle": 2,
    "capture": 1,
    "void": 1,
} | dict.fromkeys(("refused", "refund", "reprice", "time", "close", "lapse"), 1)
actions = st.sampled_from([action for action, weight in WEIGHTS.items() for _ in range(weight)])
steps = st.lists(st.tuples(actions, st.sampled_from([0, 0, 0, 1, 2, 5]), st.integers(1, 1100)), max_size=30)
BEGUN = [("pay", 0, 0), ("succeed", 0, 0), ("hear", 0, 0)]  # how many a history begins: the most can happen after it
TWICE = [("wallet", 0, 0), ("wallet", 0, 0), ("succeed", 0, 0), ("succeed", 1, 0), ("hear", 0, 0)]
REPRICED = [("wallet", 0, 0), ("reprice", 0, 500), ("succeed", 0, 0), ("hear", 0, 0)]
types = st.sampled_from(
    [
        TradeType.PURCHASE,
        TradeType.PURCHASE,
        TradeType.ESCROW,
        TradeType.ESCROW,
        TradeType.PRE_AUTHORIZATION,
        TradeType.TOP_UP,
        TradeType.CASH_OUT,
        TradeType.PEER_TRANSFER,
    ]
)


@settings(max_examples=400, deadline=None)
@given(types, st.sampled_from([[], BEGUN, BEGUN, TWICE, REPRICED]), steps)
def test_any_history_keeps_what_must_hold(
    trade_type: TradeType, beginning: list[tuple[str, int, int]], history: list[tuple[str, int, int]]
) -> None:
    world = World(trade_type)
    world.check()
    for step in beginning + history:
        world.step(*step)
        world.check()
    world.hear_all()
    world.check()
    world.check_money()
