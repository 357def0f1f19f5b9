"""One history: its people, what they asked and were told, the messages, and how it comes to its end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pay_core.tables import Coupon, PaymentCase
from pay_core.tools.channel import SUBMIT_CHANNEL_ORDER
from paykit import ids
from paykit.errors import AlreadyExists, FailedPrecondition
from paykit.ids import slot_of
from paykit.store.system import Outbox
from paymesh.channel.v1 import channel_service_pb2
from paymesh.event.v1.events_pb2 import PaymentEvent
from paymesh.pay.v1 import ledger_service_pb2 as ledger_pb
from paymesh.pay.v1 import pay_service_pb2 as pay_pb
from paymesh.pay.v1 import payment_pb2
from paymesh.trade.v1 import trade_pb2
from tests.model import asking, laws
from tests.model.asking import BENEFIT, LEDGER, PAY
from tests.model.cores import Cores, Letter
from tests.model.money import Money
from tests.model.provider import REFUND, VOID, WALLET, Order, Provider, Violation
from trade_core.tables import Trade
from trade_core.wire import TRADE_STATE, TRADE_TYPE

DELIVERIES_MAX = 2_000  # at once
END_STEPS_MAX = 400
KEPT_MAX = 80
VERDICTS = ("yes",) * 9 + ("no",) * 3 + ("open",) * 2 + ("other",) * 2
SLOTS = sorted({*asking.BUYER_SLOTS, *asking.MERCHANT_SLOTS})
_STATES: dict[int, str] = {number: name for name, number in TRADE_STATE.items()}
_TYPES: dict[int, str] = {number: name for name, number in TRADE_TYPE.items()}
_PAYMENTS = ("pay.payment_succeeded", "pay.payment_failed", "pay.payment_authorized", "pay.payment_voided")
_ROWS, _CASES = Trade.__table__.c, PaymentCase.__table__.c


class History:
    """See the module. A new one takes nothing over from the one before but the stores."""

    numbers = 0

    def __init__(self, cores: Cores, counts: Counter[str]) -> None:
        History.numbers += 1
        # The same history has the same ids each time it is tried: time moves on, so none of them comes twice.
        ids._random.seed(7)
        cores.clock.advance(1_000)
        self.cores, self.counts = cores, counts
        self.people = asking.people(History.numbers)
        cores.provider = self.provider = Provider()
        self.money = Money(self.provider)
        cores.called, cores.committed = self.money.called, self._committed
        cores.pending.clear()
        self.asked: list[tuple[str, Any, Any, int]] = []
        self.delivered: list[Letter] = []
        self.began_ms = cores.clock.now_ms()
        self.books_before = cores.do(laws.internal_totals(cores, SLOTS))
        self.is_harsh = False  # providers refuse most of what goes back
        self._number = 0

    def fresh(self) -> str:
        """A request id."""
        self._number += 1
        return f"r{History.numbers}.{self._number}"

    # What is asked

    def ask(self, service: str, name: str, request: Any, owner: str) -> Any:
        """A call; its response, or None where it is refused as the state of things allows."""
        method, slot = f"{service}/{name}", slot_of(owner)
        answer = self.cores.ask(method, request, slot)
        if answer.error is None:
            self.asked = [*self.asked[-KEPT_MAX:], (method, request, answer.response, slot)]
            return answer.response
        self.counts[f"refused: {name} {answer.error.reason}"] += 1
        if not isinstance(answer.error, FailedPrecondition):
            raise Violation(f"{name}: {answer.error!r} {request}") from answer.error
        return None

    def ask_again(self, pick: int, *, is_other: bool) -> None:
        """An earlier request once more: the first result; another body under its id: refused."""
        method, request, first, slot = self.asked[-1 - pick % len(self.asked)]
        if not is_other:
            again = self.cores.ask(method, request, slot)
            if again.response != first:
                raise Violation(f"{method} says {again}, and said {first} before")
            return
        changed = type(request)()
        changed.CopyFrom(request)
        if not laws.altered(changed):
            return
        answer = self.cores.ask(method, changed, slot)
        if not isinstance(answer.error, AlreadyExists) or answer.error.reason != "REQUEST_ID_REUSED":
            raise Violation(f"{method} takes another body under the same id: {answer}")
        self.counts["reuse refused"] += 1

    def trades(self, *states: int, kinds: Sequence[int] = (), owner: str = "") -> list[Trade]:
        """The trades of everybody, or of one buyer, in some states and of some types; the oldest first."""
        owners = [owner] if owner else self.people.buyers
        conditions = [_ROWS.buyer_id.in_(owners)]
        if states:
            conditions.append(_ROWS.state.in_([_STATES[state] for state in states]))
        if kinds:
            conditions.append(_ROWS.trade_type.in_([_TYPES[kind] for kind in kinds]))
        rows: list[Trade] = self.cores.do(self.cores.rows("trade_core", Trade, *conditions))
        return sorted(rows, key=lambda row: (row.created_at_ms, row.id))

    def pick(self, number: int, *states: int, kinds: Sequence[int] = (), refundable: bool = False) -> Trade | None:
        """One trade that somebody may want to do something with; None where there is none."""
        rows = [row for row in self.trades(*states, kinds=kinds) if row.trade_type != "REFUND"]
        if refundable:
            rows = [row for row in rows if row.refundable_minor] or rows[: number % 2]
        return rows[-1 - number % len(rows)] if rows else None

    def methods_of(self, trade: Trade, wanted: Sequence[str]) -> list[trade_pb2.PayMethod]:
        """Pay methods for a trade."""
        kind = TRADE_TYPE[trade.trade_type]
        paid = {trade.payee_id: trade.amount_minor}
        return self.methods(trade.buyer_id, kind, trade.amount_minor, wanted, paid)

    def methods(
        self,
        owner: str,
        kind: int,
        amount: int,
        wanted: Sequence[str],
        paid: Mapping[str, int],
        *,
        is_partial: bool = False,
    ) -> list[trade_pb2.PayMethod]:
        """Pay methods that the type takes. ``paid``: what each payee is paid, which bounds its coupons."""
        allowed = _tools(kind)
        usable = []
        for coupon_id, issued in self.money.coupons.items():
            worth = min(issued.face_minor, paid.get(issued.merchant, 0)) if issued.merchant else issued.face_minor
            if worth and ids.slot_in(coupon_id) == slot_of(owner):
                usable.append((coupon_id, worth))
        mine = {row.id for row in self.cores.do(self._coupons(owner))}
        coupons = [pair for pair in usable if pair[0] in mine]
        tools = [tool for tool in wanted if tool in allowed] or [allowed[0]]
        if kind in (asking.TOP_UP, asking.CASH_OUT, asking.PEER):
            return [asking.method(tools[0], amount)]
        is_open = len(wanted) > 1
        return asking.methods_for(amount, tools, coupons, is_partial=is_partial, is_open=is_open)

    async def _coupons(self, owner: str) -> list[Coupon]:
        columns = Coupon.__table__.c
        return await self.cores.rows("pay_core", Coupon, columns.owner_id == owner, columns.state == "AVAILABLE")

    def accounts(self, owner: str) -> list[ledger_pb.Account]:
        """An owner's accounts, as the ledger shows them."""
        request = ledger_pb.ListAccountsRequest(owner_id=owner)
        answer = self.cores.ask(f"{LEDGER}/ListAccounts", request, slot_of(owner))
        if answer.error is not None:
            raise answer.error
        return list(answer.response.accounts)

    def freeze(self, account: ledger_pb.Account) -> None:
        """Freezes an account, or lifts its freeze."""
        is_frozen = bool(account.freeze_reason)
        request_type: Any = ledger_pb.UnfreezeAccountRequest if is_frozen else ledger_pb.FreezeAccountRequest
        request = request_type(request_id=self.fresh(), account_id=account.account_id, reason="review")
        name = "UnfreezeAccount" if is_frozen else "FreezeAccount"
        laws.must(self.ask(LEDGER, name, request, account.owner_id), name)

    def grant(self, owner: str, points: int) -> None:
        """Points for somebody."""
        request = ledger_pb.GrantPointsRequest(
            request_id=self.fresh(), owner_id=owner, point_count=points, reason="welcome"
        )
        laws.must(self.ask(BENEFIT, "GrantPoints", request, owner), "points are granted")
        self.money.granted[owner] += points

    def allow_overdraft(self, account: ledger_pb.Account, amount: int) -> None:
        """A merchant may owe so much."""
        request = ledger_pb.SetOverdraftRequest(
            request_id=self.fresh(), account_id=account.account_id, overdraft_minor=amount, reason="agreed"
        )
        self.ask(LEDGER, "SetOverdraft", request, account.owner_id)

    def open_cases(self) -> list[PaymentCase]:
        """What somebody has to decide in this history."""
        return [case for case in self.cores.do(self.cases()) if case.state == "OPEN"]

    async def cases(self) -> list[PaymentCase]:
        """All cases of this history."""
        rows = await self.cores.rows("pay_core", PaymentCase, _CASES.opened_at_ms >= self.began_ms)
        mine = [row for row in rows if row.payment_id in self.money.payments]
        return sorted(mine, key=lambda case: case.id)

    def decide(self, case: PaymentCase, resolution: str) -> None:
        """Somebody decides a case."""
        number = payment_pb2.CaseResolution.Value(f"CASE_RESOLUTION_{resolution}")
        request = pay_pb.ResolveCaseRequest(
            request_id=self.fresh(), case_id=case.id, resolution=number, reason="review"
        )
        owner = self.money.payments[case.payment_id].payer
        laws.must(self.ask(PAY, "ResolveCase", request, owner), f"{case.type} is decided by {resolution}")
        self.counts[f"case: {case.type} {resolution}"] += 1

    # Messages

    def _committed(self, service: str, row: Outbox) -> None:
        self.counts[f"event: {row.destination}"] += 1
        if row.destination in _PAYMENTS:
            payment = PaymentEvent.FromString(row.body).payment
            if payment.payer_id in self.people.owners:
                self.money.told(payment)

    def deliver_some(self, number: int, first: int, mood: int) -> None:
        """A few messages, from somewhere in the post."""
        for _ in range(number):
            if not self.cores.pending:
                return
            self._deliver(self.cores.pending.pop(first % len(self.cores.pending)), mood)

    def deliver_all(self, mood: int) -> None:
        """Every message, in the order they were sent, and those that come of it."""
        for _ in range(DELIVERIES_MAX):
            if not self.cores.pending:
                return
            self._deliver(self.cores.pending.pop(0), mood)
        raise Violation("messages without end")

    def deliver_again(self, pick: int) -> None:
        """One that was delivered comes once more."""
        if self.delivered:
            self.counts["duplicate"] += 1
            self._deliver(self.delivered[-1 - pick % len(self.delivered)], pick)

    def lose(self, pick: int) -> None:
        """An event never comes; of a call, the answer does not, so it is made again later."""
        pending = self.cores.pending
        # A merchant's list is fed by nothing else: the events of trades come late, or twice, but they come.
        losable = [letter for letter in pending if not letter.row.destination.startswith("trade.")]
        if not losable:
            return
        letter = losable[pick % len(losable)]
        self.counts[f"lost: {letter.row.kind}"] += 1
        if letter.row.kind == "event":
            pending.remove(letter)
        else:
            self.cores.do(self.cores.deliver(letter, answer_is_lost=True))

    def _deliver(self, letter: Letter, mood: int) -> None:
        self.cores.do(self.cores.deliver(letter))
        self._delivered(letter, mood)

    def deliver_at_once(self, mood: int) -> None:
        """Every message, all that wait at the same time: as many as there are in one transaction."""
        for _ in range(DELIVERIES_MAX):
            letters, self.cores.pending = self.cores.pending, []
            if not letters:
                return
            self.cores.do(self._gathered(letters))
            for letter in letters:
                self._delivered(letter, mood)
        raise Violation("messages without end")

    async def _gathered(self, letters: Sequence[Letter]) -> None:
        await asyncio.gather(*(self.cores.deliver(letter) for letter in letters))

    def _delivered(self, letter: Letter, mood: int) -> None:
        self.delivered = [*self.delivered[-KEPT_MAX:], letter]
        if letter.row.destination == SUBMIT_CHANNEL_ORDER:
            request = channel_service_pb2.SubmitChannelOrderRequest.FromString(letter.row.body)
            order = self.provider.by_instruction[request.instruction_id]
            number = len(self.provider.orders)
            verdict = verdict_of(mood, number)
            awaits_customer = order.request.channel == WALLET and number % 2 == 0 and mood != 0
            if self.is_harsh and order.kind in (REFUND, VOID) and number % 3:
                verdict = "no"
            if order.state == "OPEN" and verdict != "open" and not awaits_customer:
                self.settle(order, verdict, laws.REFUSALS[number % len(laws.REFUSALS)])

    def settle(self, order: Order, verdict: str, reason: str) -> None:
        """The provider says what became of an order."""
        moved = order.amount_minor
        if verdict == "other" and order.may_differ:
            moved = moved + 137 if moved % 2 else max(1, moved // 2)
            self.counts["moved: more" if moved > order.amount_minor else "moved: less"] += 1
        event = self.provider.settle(order, reason if verdict == "no" else "", moved)
        self.counts[f"provider: {order.state}"] += 1
        self.cores.tell(order, event, f"channel.order_{order.state.lower()}")

    # Time

    def pass_time(self, ms: int) -> None:
        """The clock moves on, and what is due is done."""
        self.cores.clock.advance(ms)
        self.cores.do(self._fire_due())

    async def _fire_due(self) -> None:
        now_ms = self.cores.clock.now_ms()
        for timer, row in await self.cores.waiting(SLOTS, self.people.owners):
            if row.due_at_ms <= now_ms:
                self.counts[f"timer: {timer.name} {row.state}"] += 1
                await self.cores.fire(timer, row)

    async def _fire_soonest(self) -> bool:
        """Time moves on to what waits for it soonest, and all that is due then is done at once."""
        waiting = await self.cores.waiting(SLOTS, self.people.owners)
        if not waiting:
            return False
        clock = self.cores.clock
        clock.advance(max(0, waiting[0][1].due_at_ms - clock.now_ms()))
        due = [pair for pair in waiting if pair[1].due_at_ms <= clock.now_ms()]
        await asyncio.gather(*(self.cores.fire(timer, row) for timer, row in due))
        return True

    # The end

    def end(self) -> None:
        """Everything comes to its end, and everybody has what the model says."""
        self.is_harsh = False
        for owner in sorted(self.people.owners):
            for account in self.accounts(owner):
                if account.freeze_reason:
                    self.freeze(account)
        for _ in range(END_STEPS_MAX):
            if not self._goes_on():
                break
        else:
            waiting = self.cores.do(self.cores.waiting(SLOTS, self.people.owners))
            raise Violation(f"it never comes to an end: {[row for _, row in waiting]}")
        laws.check_end(self)
        self.cores.do(self.cores.forget_messages())

    def _goes_on(self) -> bool:
        """One more thing that may happen; False where nothing may."""
        if self.cores.pending:
            self.deliver_at_once(0)
            return True
        orders = self.provider.open_orders()
        if orders:
            for number, order in enumerate(orders):
                self.settle(order, "no" if number % 3 == 2 else "yes", "CARD_DECLINED")
            return True
        cases = self.open_cases()  # a trade asks for ever how a payment goes that waits for a person
        for number, case in enumerate(cases):
            names = ["ACCEPT"] if case.type == "RELEASE_FAILED" else ["RETRY", "TO_BALANCE", "ACCEPT"]
            self.decide(case, names[number % len(names)])
        return bool(cases) or self.cores.do(self._fire_soonest())


def verdict_of(mood: int, number: int) -> str:
    """What a provider says at once of its order of that number: the same for the same mood."""
    return "yes" if mood == 0 else random.Random(1000 * mood + number).choice(VERDICTS)


def _tools(kind: int) -> tuple[str, ...]:
    if kind == asking.TOP_UP:
        return ("card", "wallet")
    if kind == asking.CASH_OUT:
        return ("bank",)
    if kind == asking.PEER:
        return ("balance",)
    held = ("card", "balance", "points", "coupon")
    return held if kind == asking.PRE_AUTHORIZATION else (*held, "wallet")
