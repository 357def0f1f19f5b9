"""What callers and time do to an order that is not paid yet. Each command is one use case on the buyer's slot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from paykit.errors import AlreadyExists, FailedPrecondition, FieldViolation, InvalidArgument
from paykit.ids import slot_in, slot_of
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from trade_core import closing, wire
from trade_core import trade as domain
from trade_core.part_commands import insert_parts, pay_part
from trade_core.part_rows import check_payable, closing_keys, new_part_keys, part_keys, parts_of, payees_of
from trade_core.parts import PartPayee, check_alone
from trade_core.steps import (
    CLOSED_BY_CALLER,
    TRADE_CREATED,
    LineInput,
    NewTrade,
    Policy,
    begin_payment,
    check_open_attempts,
    new_row,
    open_attempts,
    required,
    tell_changed,
)
from trade_core.tables import PayAttempt, Trade, TradeLine
from trade_core.trade import TRADE, PayMethod, TradeState
from trade_core.types import Operation, TradeTypeSpec
from trade_core.wire import TradeView


class CreateTrade(Command[TradeView]):
    """Accepts an order with its parts and, where it has pay methods, begins to pay it."""

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
        yield from new_part_keys(self.new)

    def decide(self, work: Work) -> TradeView:
        self._check_number(work)
        trade = work.insert(self._row(work))
        lines = [self._insert_line(work, trade, number, line) for number, line in enumerate(self.new.lines, start=1)]
        view = TradeView(trade, lines)
        new = self.new
        payees: Sequence[PartPayee] = ()
        if new.parts or new.merged_trade_ids:
            made = insert_parts(work, self.policy, trade, new)
            view = TradeView(made.parent, lines, relations=made.relations)
            payees = payees_of(self.policy, made.parent, made.parts)
        if not new.pay_methods:
            work.publish(TRADE_CREATED, wire.event(view.trade))
            return view
        trade, attempt = begin_payment(work, self.policy, view.trade, new.pay_methods, payees)
        return TradeView(trade, lines, [attempt], view.relations)

    def _check_number(self, work: Work) -> None:
        existing = work.get(Trade, self.order_key, "order_key") if self.order_key else None
        if existing is not None:
            raise AlreadyExists(
                f"trade {existing.id} has this merchant_order_no",
                reason="ORDER_EXISTS",
                metadata={"trade_id": existing.id},
            )

    def _row(self, work: Work) -> Trade:
        new = self.new
        return new_row(
            work,
            self.slot,
            biz_id=work.context.biz_id,
            trade_type=new.trade_type,
            buyer_id=new.buyer_id,
            payee_id=new.payee_id,
            merchant_order_no=new.merchant_order_no,
            order_key=self.order_key,
            scene=new.scene,
            currency=new.currency,
            amount_minor=new.amount_minor,
            expires_at_ms=work.now_ms + new.time_to_live_ms,
            hold_time_to_live_ms=new.hold_time_to_live_ms,
        )

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
    """Begins to pay a trade, or a part of it: one that is CREATED, or whose attempts all wait for the customer."""

    result_type = TradeView

    def __init__(
        self,
        origin: Origin,
        policy: Policy,
        trade_id: str,
        pay_methods: Sequence[PayMethod],
        is_partial: bool = False,
    ) -> None:
        super().__init__(slot_in(trade_id), origin)
        self.policy = policy
        self.trade_id = trade_id
        self.pay_methods = pay_methods
        self.is_partial = is_partial

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Trade, self.trade_id)
        yield key(PayAttempt, self.trade_id, "trade_id")
        trade = rows.get(Trade, self.trade_id)
        if trade is not None:
            yield from part_keys(rows, trade)

    def decide(self, work: Work) -> TradeView:
        trade = required(work, self.trade_id)
        spec = self.policy.catalogue.spec(trade.trade_type)
        if self.is_partial:
            return self._pay_part(work, trade, spec)
        check_payable(work, self.policy, trade)
        self._check_methods(spec)
        earlier = sorted(work.many(PayAttempt, "trade_id", trade.id), key=lambda attempt: attempt.attempt_no)
        _check_payable_now(work, spec, trade, domain.open_among(earlier))
        payees = payees_of(self.policy, trade, parts_of(work, trade))
        trade, attempt = begin_payment(work, self.policy, trade, self.pay_methods, payees)
        return TradeView(trade, attempts=[*earlier, attempt])

    def _pay_part(self, work: Work, whole: Trade, spec: TradeTypeSpec) -> TradeView:
        """The whole with the relation to its new part, whose payment has begun."""
        if spec.is_partial:  # else pay_part says what is wrong
            self._check_methods(spec)
        begun = pay_part(work, self.policy, whole, self.pay_methods)
        attempts = sorted(work.many(PayAttempt, "trade_id", whole.id), key=lambda attempt: attempt.attempt_no)
        return TradeView(begun.parent, attempts=attempts, relations=[begun.relation])

    def _check_methods(self, spec: TradeTypeSpec) -> None:
        violations = domain.method_violations(spec, self.pay_methods)
        if violations:
            raise InvalidArgument(violations)


def _check_payable_now(work: Work, spec: TradeTypeSpec, trade: Trade, open_attempts: Sequence[PayAttempt]) -> None:
    """That another attempt may begin; a trade in any other state is refused by the transition itself."""
    if trade.state not in (TradeState.CREATED, TradeState.PAYING):
        return
    if trade.purpose:
        raise FailedPrecondition(f"trade {trade.id} is tried again by itself", subject=trade.id)
    check_open_attempts(trade, open_attempts)
    if domain.is_expired(trade, work.now_ms):
        raise FailedPrecondition(f"trade {trade.id} has expired", reason="TRADE_EXPIRED", subject=trade.id)
    if trade.attempt_count >= spec.attempts_max:
        raise FailedPrecondition(
            f"trade {trade.id} was tried {trade.attempt_count} times",
            reason="TOO_MANY_ATTEMPTS",
            subject=trade.id,
        )
    if len(open_attempts) >= spec.attempts_open_max:
        raise FailedPrecondition(
            f"the customer is awaited by {len(open_attempts)} attempts to pay trade {trade.id}",
            reason="TOO_MANY_OPEN_ATTEMPTS",
            subject=trade.id,
        )


class UnpaidCommand(Command[TradeView]):
    """What commands on an order that is not paid read: it, the attempts to pay it, and the order it belongs to."""

    result_type = TradeView

    def __init__(self, origin: Origin, policy: Policy, trade_id: str, note: str) -> None:
        super().__init__(slot_in(trade_id), origin)
        self.policy = policy
        self.trade_id = trade_id
        self.note = note

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Trade, self.trade_id)
        trade = rows.get(Trade, self.trade_id)
        if trade is None:
            return
        yield from closing_keys(rows, trade)
        if trade.open_attempt_count or trade.state == TradeState.PAYING:
            yield key(PayAttempt, trade.id, "trade_id")


class CloseTrade(UnpaidCommand):
    """Closes an unpaid trade because the caller wants it. A customer's confirmation that still comes is given back."""

    def decide(self, work: Work) -> TradeView:
        trade = required(work, self.trade_id)
        closing.check_closable(self.policy, trade)
        check_open_attempts(trade, open_attempts(work, trade))
        return TradeView(closing.close_order(work, self.policy, trade, CLOSED_BY_CALLER, self.note))


class RepriceTrade(UnpaidCommand):
    """Changes what an unpaid trade costs. An attempt that waits for the customer goes on paying the old price."""

    def __init__(
        self, origin: Origin, policy: Policy, trade_id: str, currency: str, amount_minor: int, note: str
    ) -> None:
        super().__init__(origin, policy, trade_id, note)
        self.currency = currency
        self.amount_minor = amount_minor

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield from super().reads(rows)
        yield key(TradeLine, self.trade_id, "trade_id")

    def decide(self, work: Work) -> TradeView:
        trade = required(work, self.trade_id)
        attempts = open_attempts(work, trade)
        self._check(work, trade, attempts)
        if trade.amount_minor != self.amount_minor:
            before = trade.amount_minor
            changed = msgspec.structs.replace(trade, amount_minor=self.amount_minor, note=self.note)
            trade = work.update(changed, note=f"costs {self.amount_minor} instead of {before}")
            tell_changed(work, trade)
        return TradeView(trade, attempts=attempts)

    def _check(self, work: Work, trade: Trade, attempts: Sequence[PayAttempt]) -> None:
        spec = self.policy.catalogue.spec(trade.trade_type)
        check_alone(spec, trade)
        # The earlier price, were it paid after all, must be possible to give back.
        may_be_open = spec.operation is Operation.TRANSFER
        if trade.state != TradeState.CREATED and not (trade.state == TradeState.PAYING and may_be_open):
            raise FailedPrecondition(
                f"trade {trade.id} is {trade.state}: its price stands",
                subject=trade.id,
                metadata={"state": trade.state, "entity": TRADE.entity},
            )
        check_open_attempts(trade, attempts)
        if not spec.is_creatable or work.many(TradeLine, "trade_id", trade.id):
            raise FailedPrecondition(
                f"the price of trade {trade.id} follows from what it is made of",
                reason="PRICE_NOT_FREE",
                subject=trade.id,
            )
        if domain.is_expired(trade, work.now_ms):
            raise FailedPrecondition(f"trade {trade.id} has expired", reason="TRADE_EXPIRED", subject=trade.id)
        if self.currency != trade.currency:
            raise InvalidArgument([FieldViolation("amount.currency_code", f"must be {trade.currency}, the trade's")])


class ExpireTrade(Command[TradeView | None]):
    """Closes a trade that is still unpaid when its time is up; None where something else came first."""

    def __init__(self, origin: Origin, policy: Policy, trade_id: str) -> None:
        super().__init__(slot_in(trade_id), origin)
        self.policy = policy
        self.trade_id = trade_id

    reads = UnpaidCommand.reads

    def decide(self, work: Work) -> TradeView | None:
        trade = required(work, self.trade_id)
        unpaid = (TradeState.CREATED, TradeState.PAYING, TradeState.PARTIALLY_PAID)
        if trade.state not in unpaid or trade.purpose or not domain.is_expired(trade, work.now_ms):
            return None
        return closing.expire(work, self.policy, trade)
