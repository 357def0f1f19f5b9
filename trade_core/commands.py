"""What changes a trade. Each command is one use case on the slot of the trade's buyer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from paykit import context as business_context
from paykit.errors import AlreadyExists, FailedPrecondition, FieldViolation, InvalidArgument
from paykit.ids import slot_in, slot_of
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from trade_core import trade as domain
from trade_core import wire
from trade_core.payments import pay_call, refund_call
from trade_core.tables import PayAttempt, Trade, TradeLine, TradeRelation
from trade_core.trade import ATTEMPT, TRADE, AttemptState, PayMethod, RelationKind, TradeState
from trade_core.types import Catalogue, TradeType
from trade_core.wire import TradeView

TRADE_PAID = "trade.trade_paid"
TRADE_FAILED = "trade.trade_failed"
TRADE_CLOSED = "trade.trade_closed"

CLOSED_BY_CALLER = "CLOSED_BY_CALLER"
EXPIRED = "EXPIRED"


class Policy(msgspec.Struct, frozen=True):
    """What the commands of one process share: the trade types, and when pay_core is asked about a silent payment."""

    catalogue: Catalogue
    ask_after_ms: int
    ask_after_ms_max: int


class LineInput(msgspec.Struct, frozen=True):
    """One line of a new order, checked; the price is in the trade's currency."""

    sku: str
    title: str
    quantity: int
    unit_price_minor: int


class NewTrade(msgspec.Struct, frozen=True, kw_only=True):
    """A new order, checked field by field."""

    trade_type: TradeType
    buyer_id: str
    payee_id: str
    merchant_order_no: str
    scene: str
    currency: str
    amount_minor: int
    time_to_live_ms: int
    lines: Sequence[LineInput] = ()
    pay_methods: Sequence[PayMethod] = ()


class CreateTrade(Command[TradeView]):
    """Accepts an order and, where it has pay methods, begins to pay it."""

    result_type = TradeView

    def __init__(self, origin: Origin, policy: Policy, new: NewTrade) -> None:
        super().__init__(slot_of(new.buyer_id), origin)
        self.policy = policy
        self.new = new
        self.order_key = ""
        if new.merchant_order_no:
            self.order_key = domain.order_key(new.buyer_id, new.payee_id, new.merchant_order_no)

    def reads(self, rows: Rows) -> Iterable[Key]:
        if self.order_key:
            yield key(Trade, self.order_key, "order_key")

    def decide(self, work: Work) -> TradeView:
        new = self.new
        if self.order_key:
            existing = work.get(Trade, self.order_key, "order_key")
            if existing is not None:
                raise AlreadyExists(
                    f"trade {existing.id} has this merchant_order_no",
                    reason="ORDER_EXISTS",
                    metadata={"trade_id": existing.id},
                )
        trade_id = work.new_id("trd")
        trade = work.insert(
            Trade(
                id=trade_id,
                slot=self.slot,
                biz_id=work.context.biz_id,
                trade_type=new.trade_type.value,
                state=TRADE.initial.value,
                buyer_id=new.buyer_id,
                payee_id=new.payee_id,
                merchant_order_no=new.merchant_order_no,
                order_key=self.order_key or trade_id,
                parent_trade_id="",
                scene=new.scene,
                currency=new.currency,
                amount_minor=new.amount_minor,
                refunded_minor=0,
                refundable_minor=0,
                reason="",
                note="",
                attempt_id="",
                attempt_count=0,
                follow_up_count=0,
                ask_count=0,
                created_at_ms=work.now_ms,
                paid_at_ms=None,
                expires_at_ms=work.now_ms + new.time_to_live_ms,
                due_at_ms=work.now_ms + new.time_to_live_ms,
                context=_lasting(work),
            )
        )
        lines = [self._insert_line(work, trade, number, line) for number, line in enumerate(new.lines, start=1)]
        if not new.pay_methods:
            return TradeView(trade, lines)
        trade, attempt = _begin_payment(work, self.policy, trade, new.pay_methods)
        return TradeView(trade, lines, [attempt])

    def _insert_line(self, work: Work, trade: Trade, line_no: int, line: LineInput) -> TradeLine:
        row = TradeLine(
            id=work.new_id("lin"),
            slot=trade.slot,
            biz_id=trade.biz_id,
            trade_id=trade.id,
            line_no=line_no,
            sku=line.sku,
            title=line.title,
            quantity=line.quantity,
            currency=trade.currency,
            unit_price_minor=line.unit_price_minor,
        )
        return work.insert(row, audit=False)


class PayTrade(Command[TradeView]):
    """Begins to pay a CREATED trade."""

    result_type = TradeView

    def __init__(self, origin: Origin, policy: Policy, trade_id: str, pay_methods: Sequence[PayMethod]) -> None:
        super().__init__(slot_in(trade_id), origin)
        self.policy = policy
        self.trade_id = trade_id
        self.pay_methods = pay_methods

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Trade, self.trade_id)
        yield key(PayAttempt, self.trade_id, "trade_id")

    def decide(self, work: Work) -> TradeView:
        trade = _required(work, self.trade_id)
        spec = self.policy.catalogue.spec(trade.trade_type)
        violations = domain.method_violations(spec, self.pay_methods)
        if violations:
            raise InvalidArgument(violations)
        if trade.state == TradeState.CREATED:  # any other state is refused by the transition itself
            if domain.is_expired(trade, work.now_ms):
                raise FailedPrecondition(f"trade {trade.id} has expired", reason="TRADE_EXPIRED", subject=trade.id)
            if trade.attempt_count >= spec.attempts_max:
                raise FailedPrecondition(
                    f"trade {trade.id} was tried {trade.attempt_count} times",
                    reason="TOO_MANY_ATTEMPTS",
                    subject=trade.id,
                )
        earlier = sorted(work.many(PayAttempt, "trade_id", trade.id), key=lambda attempt: attempt.attempt_no)
        trade, attempt = _begin_payment(work, self.policy, trade, self.pay_methods)
        return TradeView(trade, attempts=[*earlier, attempt])


class RefundTrade(Command[TradeView]):
    """Gives a paid trade's money back: reserves it, and makes the refund and the call that moves it, at once."""

    result_type = TradeView

    def __init__(
        self, origin: Origin, policy: Policy, trade_id: str, currency: str, amount_minor: int | None, note: str
    ) -> None:
        """``amount_minor`` None gives back all that is left; ``currency`` is empty then."""
        super().__init__(slot_in(trade_id), origin)
        self.policy = policy
        self.trade_id = trade_id
        self.currency = currency
        self.amount_minor = amount_minor
        self.note = note

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Trade, self.trade_id)
        parent = rows.get(Trade, self.trade_id)
        if parent is not None and parent.attempt_id:
            yield key(PayAttempt, parent.attempt_id)

    def decide(self, work: Work) -> TradeView:
        parent = _required(work, self.trade_id)
        self._check(parent)
        paid_by = work.get(PayAttempt, parent.attempt_id)
        assert paid_by is not None, f"{parent.id} is paid by no attempt"
        assert paid_by.state == AttemptState.EFFECTIVE, f"{paid_by.id} did not pay {parent.id}"
        amount_minor = domain.refund_amount(parent, self.amount_minor)
        parent = domain.reserve_refund(parent, amount_minor)
        parent = msgspec.structs.replace(parent, follow_up_count=parent.follow_up_count + 1)
        work.update(parent, note=f"refund of {amount_minor} begun")
        refund = work.insert(self._refund(work, parent, amount_minor), parent_id=parent.id)
        relation = work.insert(
            TradeRelation(
                id=work.new_id("rel"),
                slot=self.slot,
                biz_id=refund.biz_id,
                root_trade_id=parent.id,
                parent_trade_id=parent.id,
                child_trade_id=refund.id,
                kind=RelationKind.REFUND_OF.value,
            ),
            audit=False,
        )
        refund, attempt = _begin_attempt(work, self.policy, refund)
        work.call(*refund_call(refund, paid_by, attempt.id))
        return TradeView(refund, attempts=[attempt], relations=[relation])

    def _check(self, parent: Trade) -> None:
        spec = self.policy.catalogue.spec(parent.trade_type)
        if TradeType.REFUND not in spec.follow_ups:
            raise FailedPrecondition(
                f"a trade of type {parent.trade_type} cannot be refunded",
                reason="REFUND_NOT_ALLOWED",
                subject=parent.id,
                metadata={"trade_type": parent.trade_type},
            )
        if parent.state != TradeState.PAID:
            raise FailedPrecondition(
                f"trade {parent.id} is {parent.state} and cannot be refunded",
                subject=parent.id,
                metadata={"state": parent.state, "entity": TRADE.entity},
            )
        if self.amount_minor is not None and self.currency != parent.currency:
            raise InvalidArgument([FieldViolation("amount.currency_code", f"must be {parent.currency}, the trade's")])
        if parent.follow_up_count >= spec.follow_ups_max:
            raise FailedPrecondition(
                f"trade {parent.id} was refunded {parent.follow_up_count} times",
                reason="TOO_MANY_REFUNDS",
                subject=parent.id,
            )

    def _refund(self, work: Work, parent: Trade, amount_minor: int) -> Trade:
        trade_id = work.new_id("trd")
        return Trade(
            id=trade_id,
            slot=self.slot,
            biz_id=parent.biz_id,
            trade_type=TradeType.REFUND.value,
            state=TRADE.initial.value,
            buyer_id=parent.buyer_id,
            payee_id=parent.payee_id,
            merchant_order_no="",
            order_key=trade_id,
            parent_trade_id=parent.id,
            scene=parent.scene,
            currency=parent.currency,
            amount_minor=amount_minor,
            refunded_minor=0,
            refundable_minor=0,
            reason="",
            note=self.note,
            attempt_id="",
            attempt_count=0,
            follow_up_count=0,
            ask_count=0,
            created_at_ms=work.now_ms,
            paid_at_ms=None,
            expires_at_ms=None,
            due_at_ms=None,
            context=_lasting(work),
        )


class CloseTrade(Command[TradeView]):
    """Closes a CREATED trade because the caller wants it."""

    result_type = TradeView

    def __init__(self, origin: Origin, trade_id: str, note: str) -> None:
        super().__init__(slot_in(trade_id), origin)
        self.trade_id = trade_id
        self.note = note

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Trade, self.trade_id)

    def decide(self, work: Work) -> TradeView:
        return TradeView(_close(work, _required(work, self.trade_id), CLOSED_BY_CALLER, self.note))


class ExpireTrade(Command[TradeView | None]):
    """Closes a trade that is still unpaid when its time is up; None where something else came first."""

    def __init__(self, origin: Origin, trade_id: str) -> None:
        super().__init__(slot_in(trade_id), origin)
        self.trade_id = trade_id

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Trade, self.trade_id)

    def decide(self, work: Work) -> TradeView | None:
        trade = _required(work, self.trade_id)
        if trade.state != TradeState.CREATED or not domain.is_expired(trade, work.now_ms):
            return None
        return TradeView(_close(work, trade, EXPIRED, ""))


def _required(work: Work, trade_id: str) -> Trade:
    trade = work.get(Trade, trade_id)
    if trade is None:
        raise domain.no_such_trade(trade_id)
    work.adopt(trade.biz_id)
    return trade


def _lasting(work: Work) -> bytes:
    """The context as a row keeps it: without the deadline of the call that brought it."""
    return business_context.pack(msgspec.structs.replace(work.context, deadline_ms=None))


def _close(work: Work, trade: Trade, reason: str, note: str) -> Trade:
    changed = TRADE.move(trade, TradeState.CLOSED, reason=reason, note=note, due_at_ms=None)
    trade = work.update(changed, note=reason)
    work.publish(TRADE_CLOSED, wire.event(trade))
    return trade


def _begin_payment(
    work: Work, policy: Policy, trade: Trade, pay_methods: Sequence[PayMethod]
) -> tuple[Trade, PayAttempt]:
    """Moves a trade to PAYING with a new attempt and sends the call that pays it."""
    trade, attempt = _begin_attempt(work, policy, trade)
    shares = domain.split(trade.amount_minor, trade.currency, pay_methods)
    work.call(*pay_call(policy.catalogue, trade, attempt.id, shares))
    return trade, attempt


def _begin_attempt(work: Work, policy: Policy, trade: Trade) -> tuple[Trade, PayAttempt]:
    attempt_no = trade.attempt_count + 1
    attempt = PayAttempt(
        id=work.new_id("att"),
        slot=trade.slot,
        biz_id=trade.biz_id,
        trade_id=trade.id,
        attempt_no=attempt_no,
        attempt_key=f"{trade.id}/{attempt_no}",
        state=ATTEMPT.initial.value,
        payment_id="",
        failure_reason="",
        created_at_ms=work.now_ms,
        finished_at_ms=None,
    )
    changed = TRADE.move(
        trade,
        TradeState.PAYING,
        reason="",
        attempt_id=attempt.id,
        attempt_count=attempt_no,
        ask_count=0,
        due_at_ms=work.now_ms + policy.ask_after_ms,
    )
    trade = work.update(changed)
    return trade, work.insert(attempt, parent_id=trade.id)
