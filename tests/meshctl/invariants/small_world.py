"""A small system at rest, or at work: every service's own commands on SQLite shards, messages carried by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import msgspec
from sqlalchemy import select, update

from channel_gateway.channel_order import ChannelPolicy, ProviderResult, ResultStatus, Source
from channel_gateway.commands import ApplyResult, MarkSending, SubmitOrder
from channel_gateway.overrides import Override, OverrideMode, SetOverride
from channel_gateway.sandbox.behaviour import Kind
from channel_gateway.sandbox.book import Book
from channel_gateway.sandbox.entries import OrderBody, OrderRequest, Timing
from channel_gateway.settings import ChannelGatewaySettings
from channel_gateway.tables import ChannelOrder
from meshctl.layout import DatabaseUrl, Ports, configuration
from meshctl.settings import SERVICES, MeshSettings
from pay_core.api import PayApi, TransitApi
from pay_core.benefits import GrantPoints, IssueCoupon
from pay_core.bookkeeping import AskToClose
from pay_core.consumers import ChannelResults
from pay_core.coupon import CouponFunder
from pay_core.end_of_day import EndOfDay
from pay_core.rule_versions import keep_rules
from pay_core.rules import RuleBook
from pay_core.tables import Book as LedgerBook
from pay_core.tables import Closing
from pay_core.terms import TermsBook
from pay_core.tools.channel import SUBMIT_CHANNEL_ORDER
from paykit import context as business
from paykit.clock import ManualClock
from paykit.context import MODES, BusinessContext, mint
from paykit.errors import MeshError
from paykit.events.gathering import Gather
from paykit.ids import slot_of
from paykit.rpc.channels import Channels
from paykit.settings import ExecutorSettings
from paykit.store.command import Origin
from paykit.store.migrate import migrate
from paykit.store.store import Store
from paykit.store.system import Outbox
from paymesh.channel.v1 import channel_service_pb2
from paymesh.common.v1.money_pb2 import Money
from paymesh.pay.v1 import ledger_service_pb2
from recon import consumers as recon_consumers
from recon.settings import ReconSettings
from tests.meshctl.invariants import mending
from tests.meshctl.invariants.leaving import submitted
from tests.meshctl.invariants.questions import ask_trades
from trade_core import merchant_trades
from trade_core.catalogue import TRADE_TYPES, load
from trade_core.commands import CreateTrade, PayTrade
from trade_core.consumers import PAYMENT_SUBJECTS, PaymentNews
from trade_core.holds import CaptureTrade
from trade_core.notify import Notifier
from trade_core.parts import PartInput
from trade_core.payments import REQUESTS
from trade_core.refunds import RefundTrade
from trade_core.steps import SUBJECTS, NewTrade, Policy
from trade_core.tables import Trade
from trade_core.trade import PayMethod
from trade_core.types import PayeeKind, TradeType
from trade_core.wire import TradeView

NOW_MS = 1_760_000_000_000
RESULT_DUE_MS = 15_000
LATE = "tok_customer_late"  # of a wallet whose customer has not decided yet
SILENT = "tok_silent"  # of a card whose charge is never answered; the provider has nothing of it
ELSEWHERE = "tok_ok_elsewhere"  # the first channel for cards is not to be reached for it


def owner_on(shard_number: int, near: str = "", other_than: str = "") -> str:
    """A user on the first or the second half of all slots; on the very slot of ``near`` where it is given."""
    for number in itertools.count():
        name = f"user.{number}"
        slot = slot_of(name)
        if other_than and slot == slot_of(other_than):
            continue
        if (slot == slot_of(near) and name != near) if near else slot // 512 == shard_number:
            return name
    raise AssertionError("unreachable")


ALICE = owner_on(0)
BOB = owner_on(0, near=ALICE)
SHOP = owner_on(1)
CAROL = owner_on(0, other_than=ALICE)


def settings_in(folder: Path, database_url: DatabaseUrl | None = None) -> MeshSettings:
    """The settings of a system whose book lies in ``folder``, and its databases where nothing else is said.

    Nobody listens anywhere.
    """
    content = configuration(
        database_url or (lambda service, shard, mode: f"sqlite+aiosqlite:///{folder}/{service}_{shard}_{mode}.db"),
        {"kind": "embedded", "path": str(folder / "bus")},
        Ports(dict.fromkeys(Ports.choose(preferred=False).by_name, 1)),
        folder / "book.sqlite",
    )
    return MeshSettings.model_validate(content)


class SmallWorld:
    """The stores of all four services and the provider's book; a context manager that opens and closes them."""

    def __init__(self, settings: MeshSettings) -> None:
        self.settings = settings
        self.clock = ManualClock(NOW_MS)
        assert settings.sandbox is not None
        self._book = Book(settings.sandbox.book_path, self.clock, Timing(settle_ms=0, late_ms=0))
        self.stores = {
            name: Store(name, settings.service(name).shards, 1, self.clock, ExecutorSettings()) for name in SERVICES
        }
        self.policy = Policy(load(), ask_after_ms=5_000, ask_after_ms_max=60_000)
        self._stack = AsyncExitStack()
        self._gateway = cast(ChannelGatewaySettings, settings.channel_gateway)

    async def __aenter__(self) -> SmallWorld:
        for name, store in self.stores.items():
            await migrate(name, self.settings.service(name).shards, 1)
            await store.start()
            self._stack.push_async_callback(store.stop)
        await self._book.start()
        self._stack.push_async_callback(self._book.stop)
        pay = self.stores["pay_core"]
        channels = Channels({})
        self._stack.push_async_callback(channels.close, grace_s=0)
        rules = RuleBook()
        await keep_rules(pay, rules.active)
        terms = TermsBook(rules, RESULT_DUE_MS / 1000, RESULT_DUE_MS / 1000)
        await keep_rules(pay, terms.rules.active)
        results = ChannelResults(pay, channels, terms)
        self.apis: dict[str, Any] = {
            "PayService": PayApi(pay, terms, channels),
            "TransitService": TransitApi(pay, terms),
        }

        async def nobody(request: Any, context: BusinessContext) -> Any:
            raise AssertionError("nothing is asked for here")

        self._news = PaymentNews(self.stores["trade_core"], self.policy, Notifier(1), nobody)
        self._rules = cast(ReconSettings, self.settings.recon).rules()
        self.listeners = {
            "pay_core": results.consumer(),
            "recon": recon_consumers.consumer(self._rules, Gather(1.0, 1), self.clock),
        }
        self.repairers = mending.consumers(self._rules)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    # What clients ask for

    async def order(
        self,
        trade_type: TradeType,
        buyer: str,
        amount_minor: int,
        *methods: PayMethod,
        shadow: bool = False,
        parts: Sequence[PartInput] = (),
        merges: Sequence[str] = (),
        scene: str = "checkout",
    ) -> TradeView:
        """An order, carried as far as it goes. ``merges``: the ids of trades that it pays."""
        spec = TRADE_TYPES[trade_type]
        payee = {PayeeKind.MERCHANT: SHOP, PayeeKind.USER: BOB, PayeeKind.NONE: ""}[spec.payee]
        new = NewTrade(
            trade_type=trade_type,
            buyer_id=buyer,
            payee_id=payee,
            merchant_order_no="",
            scene=scene,
            currency="EUR",
            amount_minor=amount_minor,
            time_to_live_ms=1_800_000,
            hold_time_to_live_ms=spec.hold_time_to_live_ms,
            pay_methods=methods,
            parts=parts,
            merged_trade_ids=merges,
        )
        origin = self._origin(buyer, shadow, biz_code=f"{payee}/{trade_type}/{scene}")
        made = await self.stores["trade_core"].run(CreateTrade(origin, self.policy, new))
        await self.carry()
        return made

    async def pay(self, trade: Trade, *methods: PayMethod, is_partial: bool = False) -> None:
        """Another try to pay a trade, or a part of it, carried as far as it goes."""
        origin = self._origin(trade.buyer_id, False, trade.biz_id)
        await self.stores["trade_core"].run(PayTrade(origin, self.policy, trade.id, methods, is_partial))
        await self.carry()

    async def capture(self, trade: Trade, amount_minor: int) -> None:
        """Takes a part of held money, and lets the rest go."""
        origin = self._origin(trade.buyer_id, False, trade.biz_id)
        command = CaptureTrade(origin, self.policy, trade.id, trade.currency, amount_minor, keep_rest=False)
        await self.stores["trade_core"].run(command)
        await self.carry()

    async def issue_coupon(self, owner: str, amount_minor: int, merchant: str = "") -> str:
        """A coupon of a merchant, or of the platform; its id."""
        funder = CouponFunder.MERCHANT if merchant else CouponFunder.PLATFORM
        expires_at_ms = self.clock.now_ms() + 86_400_000
        origin = self._origin(owner, False)
        command = IssueCoupon(origin, owner, "EUR", amount_minor, funder, merchant, "autumn", expires_at_ms)
        return (await self.stores["pay_core"].run(command)).id

    async def grant_points(self, owner: str, count: int) -> None:
        """Points for a user."""
        await self.stores["pay_core"].run(GrantPoints(self._origin(owner, False), owner, count, "gift"))
        await self.carry()

    async def refund(self, trade: TradeView, amount_minor: int) -> None:
        """A refund, carried as far as it goes."""
        origin = self._origin(trade.trade.buyer_id, False, trade.trade.biz_id)
        command = RefundTrade(origin, self.policy, trade.trade.id, "EUR", amount_minor, "broken")
        await self.stores["trade_core"].run(command)
        await self.carry()

    def _origin(self, owner: str, shadow: bool, biz_id: str = "", biz_code: str = "") -> Origin:
        self.clock.advance(1_000)
        context = mint(slot_of(owner), self.clock.now_ms(), shadow=shadow, caller="shop-backend")
        request_id = f"request-{context.biz_id}"
        context = msgspec.structs.replace(context, biz_id=biz_id or context.biz_id, biz_code=biz_code)
        return Origin.rpc(context, "Order", owner, request_id, Money(amount_minor=1))

    # What people do

    async def force(self, channel: str, mode: OverrideMode) -> None:
        """Sets the breaker of a channel, for an hour."""
        expire_at_ms = None if mode is OverrideMode.NONE else self.clock.now_ms() + 3_600_000
        wanted = Override(channel=channel, merchant="", mode=mode, reason="maintenance", expire_at_ms=expire_at_ms)
        await self.stores["channel_gateway"].run(SetOverride(self._origin(channel, False), wanted))

    # What timers do

    async def close_date(self) -> None:
        """Closes the live books of pay_core on the day they are at, and writes what accounts then hold."""
        store = self.stores["pay_core"]
        end_of_day = EndOfDay(store, drain_ms=0)
        for book in await store.fetch_everywhere(LedgerBook, select(LedgerBook.__table__), shadow=False):
            with business.use(business.unpack(book.context)) as context:
                origin = Origin.timer(msgspec.structs.replace(context, caller="timer:book_due"))
                asked = await store.run(AskToClose(origin, book, book.open_date))
                with business.use(origin.context):
                    await end_of_day.step(asked)
        for closing in await store.fetch_everywhere(Closing, select(Closing.__table__), shadow=False):
            with business.use(msgspec.structs.replace(business.unpack(closing.context), caller="timer:closing_due")):
                await end_of_day.write(closing)
        await self.carry()

    async def confirm_late(self) -> None:
        """The customers of wallets who had not decided yet confirm."""
        store, table = self.stores["channel_gateway"], ChannelOrder.__table__
        waiting = select(table).where(table.c.state == "PENDING")
        for order in await store.fetch_everywhere(ChannelOrder, waiting, shadow=False):
            context = msgspec.structs.replace(business.unpack(order.context), caller="worker")
            result = await self.provider(msgspec.structs.replace(order, token="tok_ok"), context)
            policy = self.policy_of(order.channel)
            await store.run(ApplyResult(Origin.timer(context), order.id, policy, result, Source.QUERY))
        await self.carry()
        await self._ask_trades()

    async def _ask_trades(self) -> None:
        """recon asks the trades about the payments that they have not told it of: those they give back."""
        await ask_trades(self.stores["recon"], self.stores["trade_core"], self._rules)
        await self.carry()

    # What the relay, the bus and the workers do

    async def carry(self) -> None:
        """Delivers messages until none is left."""
        is_moving = True
        while is_moving:
            is_moving = False
            for service, store in self.stores.items():
                for mode in MODES:
                    for shard in store.shards(mode):
                        is_moving |= await self._carry_from(service, mode, shard)

    async def _carry_from(self, service: str, mode: str, shard: str) -> bool:
        store, table = self.stores[service], Outbox.__table__
        waiting = select(table).where(table.c.acked_at_ms.is_(None)).order_by(table.c.id)
        rows = await store.fetch_shard(Outbox, waiting, mode, shard)
        for row in rows:
            context = business.unpack(row.context)
            await (self._call if row.kind == "call" else self._announce)(row, context)
            done = update(table).where(table.c.id == row.id).values(acked_at_ms=self.clock.now_ms())
            await store.housekeep(mode, shard, done)
        return bool(rows)

    async def _call(self, row: Outbox, context: BusinessContext) -> None:
        if row.destination == SUBMIT_CHANNEL_ORDER:
            await self._submit(row, msgspec.structs.replace(context, caller="pay_core"))
            return
        _, service, method = row.destination.replace("/paymesh.pay.v1.", "/").split("/")
        is_trade = row.destination in REQUESTS
        with business.use(msgspec.structs.replace(context, caller="trade_core" if is_trade else "pay_core")) as calling:
            try:
                response = await getattr(self.apis[service], method)(_parse(row, method), None)
            except MeshError as error:
                if not is_trade:
                    raise
                await self._news.on_refused(calling, row, error)
                return
        if is_trade:
            await self._news.on_reply(msgspec.structs.replace(context, caller="reply"), row, response)

    async def _announce(self, row: Outbox, context: BusinessContext) -> None:
        for name, consumer in [*self.listeners.items(), *self.repairers.items()]:
            if row.destination in consumer.subjects:
                heard = msgspec.structs.replace(context, caller=f"consumer:{consumer.name}")
                command = consumer.to_command(heard, row.id, row.destination, row.body)
                if command is not None:
                    await self.stores[name].run(command)
        if row.destination in SUBJECTS:
            heard = msgspec.structs.replace(context, caller=f"consumer:{merchant_trades.CONSUMER}")
            projected = merchant_trades.to_command(heard, row.id, row.destination, row.body)
            if projected is not None:
                await self.stores["trade_core"].run(projected)
        if row.destination in PAYMENT_SUBJECTS:
            heard = msgspec.structs.replace(context, caller="consumer:payments")
            command = self._news.to_command(heard, row.id, row.destination, row.body)
            if command is not None:
                await self.stores["trade_core"].run(command)

    async def _submit(self, row: Outbox, context: BusinessContext) -> None:
        request = channel_service_pb2.SubmitChannelOrderRequest.FromString(row.body)
        origin = Origin.rpc(context, "SubmitChannelOrder", request.instruction_id, request.request_id, request)
        operations = self._gateway.channels[request.channel].operations
        store = self.stores["channel_gateway"]
        order = await store.run(SubmitOrder(origin, submitted(request), operations))
        for _ in range(order.attempt_no + 1):
            policy = self.policy_of(order.channel)
            await store.run(MarkSending(Origin.timer(context), order.id, policy))
            result = await self.provider(order, context)
            after = await store.run(ApplyResult(Origin.timer(context), order.id, policy, result, Source.REPLY))
            assert after is not None
            if after.channel == order.channel:
                return
            order = after

    def policy_of(self, channel: str) -> ChannelPolicy:
        """By what a channel's results are judged."""
        return msgspec.structs.replace(self._gateway.channels[channel].policy(), channel=channel)

    async def provider(self, order: ChannelOrder, context: BusinessContext) -> ProviderResult:
        """What the provider says of an order when it is called."""
        if order.token == SILENT:
            return ProviderResult(status=ResultStatus.UNKNOWN)
        if order.token == LATE:
            return ProviderResult(status=ResultStatus.PENDING)
        if order.token == ELSEWHERE and order.channel == "sandbox_card":
            return ProviderResult(status=ResultStatus.NOT_SENT)
        return await self.booked(order, context.mode)

    async def booked(self, order: ChannelOrder, mode: str) -> ProviderResult:
        """What the provider's book makes of an order on the account of its channel."""
        body = OrderBody(
            reference=order.id,
            amount_minor=order.amount_minor,
            currency=order.currency,
            token=order.token,
            original_reference=order.original_channel_order_id,
        )
        request = OrderRequest(
            kind=cast(Kind, order.kind.lower()),
            account=f"{order.channel}_{mode}",
            livemode=mode == "live",
            idempotency_key=order.id,
            body=body,
        )
        placed = await self._book.place(request, None)
        assert placed.decision is not None
        entry = placed.decision.entry
        assert entry is not None
        status = ResultStatus.SUCCEEDED if entry.outcome == "succeeded" else ResultStatus.FAILED
        return ProviderResult(
            status=status,
            provider_reference=entry.provider_reference,
            failure_reason=entry.failure_code.upper(),
            amount_minor=entry.moving_minor,
            currency=entry.currency,
        )


def _parse(row: Outbox, method: str) -> Any:
    if row.destination in REQUESTS:
        return REQUESTS[row.destination].FromString(row.body)
    return getattr(ledger_service_pb2, f"{method}Request").FromString(row.body)
