"""A small system at rest, or at work: every service's own commands on SQLite shards, messages carried by hand."""

from __future__ import annotations

import itertools
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import msgspec
from sqlalchemy import select, update

from channel_gateway.channel_order import ProviderResult, ResultStatus, Source
from channel_gateway.commands import ApplyResult, MarkSending, Submission, SubmitOrder
from channel_gateway.messages import KIND_OF, mismatch_event
from channel_gateway.sandbox.book import Book
from channel_gateway.sandbox.entries import Kind, OrderBody, OrderRequest, Timing
from channel_gateway.settings import ChannelGatewaySettings
from channel_gateway.tables import ChannelOrder
from meshctl.layout import DatabaseUrl, Ports, configuration
from meshctl.settings import SERVICES, MeshSettings
from pay_core.api import PayApi, TransitApi
from pay_core.consumers import ChannelResults
from pay_core.rule_versions import keep_rules
from pay_core.rules import RuleBook
from pay_core.terms import TermsBook
from pay_core.tools.channel import SUBMIT_CHANNEL_ORDER
from paykit import context as business
from paykit.clock import ManualClock
from paykit.context import MODES, BusinessContext, mint
from paykit.errors import MeshError
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
from trade_core.catalogue import load
from trade_core.commands import CreateTrade
from trade_core.consumers import PaymentNews
from trade_core.notify import Notifier
from trade_core.payments import REQUESTS
from trade_core.refunds import RefundTrade
from trade_core.steps import NewTrade, Policy
from trade_core.trade import PayMethod
from trade_core.types import Tool, TradeType
from trade_core.wire import TradeView

NOW_MS = 1_760_000_000_000
RESULT_DUE_MS = 15_000
SILENT = "tok_silent"  # of a card whose charge is never answered; the provider has nothing of it


def owner_on(shard_number: int, near: str = "") -> str:
    """A user on the first or the second half of all slots; on the very slot of ``near`` where it is given."""
    for number in itertools.count():
        name = f"user.{number}"
        slot = slot_of(name)
        if (slot == slot_of(near) and name != near) if near else slot // 512 == shard_number:
            return name
    raise AssertionError("unreachable")


ALICE = owner_on(0)
BOB = owner_on(0, near=ALICE)
SHOP = owner_on(1)


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
        self._policy = Policy(load(), ask_after_ms=5_000, ask_after_ms_max=60_000)
        self._stack = AsyncExitStack()

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
        terms = TermsBook(RuleBook(), RESULT_DUE_MS / 1000, RESULT_DUE_MS / 1000)
        await keep_rules(pay, terms.rules.active)
        results = ChannelResults(pay, channels, terms)
        self._apis: dict[str, Any] = {
            "PayService": PayApi(pay, terms),
            "TransitService": TransitApi(pay, terms),
        }

        async def nobody(request: Any, context: BusinessContext) -> Any:
            raise AssertionError("nothing is asked for here")

        self._news = PaymentNews(self.stores["trade_core"], self._policy, Notifier(1), nobody)
        self.listeners = {
            "pay_core": results.consumer(),
            "recon": recon_consumers.consumer(cast(ReconSettings, self.settings.recon).rules()),
        }
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    # What clients ask for

    async def order(
        self, trade_type: TradeType, buyer: str, amount_minor: int, *methods: PayMethod, shadow: bool = False
    ) -> TradeView:
        """An order, carried as far as it goes."""
        payee = {TradeType.PURCHASE: SHOP, TradeType.PEER_TRANSFER: BOB}.get(trade_type, "")
        new = NewTrade(
            trade_type=trade_type,
            buyer_id=buyer,
            payee_id=payee,
            merchant_order_no="",
            scene="checkout",
            currency="EUR",
            amount_minor=amount_minor,
            time_to_live_ms=1_800_000,
            pay_methods=methods,
        )
        made = await self.stores["trade_core"].run(CreateTrade(self._origin(buyer, shadow), self._policy, new))
        await self.carry()
        return made

    async def refund(self, trade: TradeView, amount_minor: int) -> None:
        """A refund, carried as far as it goes."""
        origin = self._origin(trade.trade.buyer_id, False, trade.trade.biz_id)
        command = RefundTrade(origin, self._policy, trade.trade.id, "EUR", amount_minor, "broken")
        await self.stores["trade_core"].run(command)
        await self.carry()

    def _origin(self, owner: str, shadow: bool, biz_id: str = "") -> Origin:
        self.clock.advance(1_000)
        context = mint(slot_of(owner), self.clock.now_ms(), shadow=shadow, caller="shop-backend")
        request_id = f"request-{context.biz_id}"
        context = msgspec.structs.replace(context, biz_id=biz_id or context.biz_id)
        return Origin.rpc(context, "Order", owner, request_id, Money(amount_minor=1))

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
                response = await getattr(self._apis[service], method)(_parse(row, method), None)
            except MeshError as error:
                if not is_trade:
                    raise
                await self._news.on_refused(calling, row, error)
                return
        if is_trade:
            await self._news.on_reply(msgspec.structs.replace(context, caller="reply"), row, response)

    async def _announce(self, row: Outbox, context: BusinessContext) -> None:
        for name, consumer in self.listeners.items():
            if row.destination in consumer.subjects:
                heard = msgspec.structs.replace(context, caller=f"consumer:{consumer.name}")
                command = consumer.to_command(heard, row.id, row.destination, row.body)
                if command is not None:
                    await self.stores[name].run(command)
        if row.destination.startswith("pay."):
            heard = msgspec.structs.replace(context, caller="consumer:payments")
            command = self._news.to_command(heard, row.id, row.destination, row.body)
            if command is not None:
                await self.stores["trade_core"].run(command)

    async def _submit(self, row: Outbox, context: BusinessContext) -> None:
        store = self.stores["channel_gateway"]
        request = channel_service_pb2.SubmitChannelOrderRequest.FromString(row.body)
        submission = Submission(
            kind=KIND_OF[request.kind],
            channel=request.channel,
            amount_minor=request.amount.amount_minor,
            currency=request.amount.currency_code,
            instruction_id=request.instruction_id,
            payment_id=request.payment_id,
            token=request.token,
            original_channel_order_id=request.original_channel_order_id,
        )
        gateway = cast(ChannelGatewaySettings, self.settings.channel_gateway)
        channel = gateway.channels[request.channel]
        origin = Origin.rpc(context, "SubmitChannelOrder", request.instruction_id, request.request_id, request)
        order = await store.run(SubmitOrder(origin, submission, channel.operations))
        policy = channel.policy()
        await store.run(MarkSending(Origin.timer(context), order.id, policy))
        result = await self._provider(order, context)
        await store.run(ApplyResult(Origin.timer(context), order.id, policy, result, Source.REPLY))

    async def _provider(self, order: ChannelOrder, context: BusinessContext) -> ProviderResult:
        if order.token == SILENT:
            return ProviderResult(status=ResultStatus.UNKNOWN)
        body = OrderBody(
            reference=order.id,
            amount_minor=order.amount_minor,
            currency=order.currency,
            token=order.token,
            original_reference=order.original_channel_order_id,
        )
        account = f"{order.channel}_{context.mode}"
        request = OrderRequest(
            kind=cast(Kind, order.kind.lower()),
            account=account,
            livemode=not context.shadow,
            idempotency_key=order.id,
            body=body,
        )
        placed = await self._book.place(request, None)
        assert placed.decision is not None
        entry = placed.decision.entry
        assert entry is not None
        status = ResultStatus.SUCCEEDED if entry.outcome == "succeeded" else ResultStatus.FAILED
        return ProviderResult(
            status=status, provider_reference=entry.provider_reference, failure_reason=entry.failure_code.upper()
        )


def _parse(row: Outbox, method: str) -> Any:
    if row.destination in REQUESTS:
        return REQUESTS[row.destination].FromString(row.body)
    return getattr(ledger_service_pb2, f"{method}Request").FromString(row.body)


def card(token: str = "tok_ok_visa", amount_minor: int | None = None) -> PayMethod:
    """A card; of the order's currency where it pays a part."""
    return PayMethod(Tool.CARD, token, amount_minor, "" if amount_minor is None else "EUR")


def balance(amount_minor: int | None = None) -> PayMethod:
    """The buyer's balance."""
    return PayMethod(Tool.BALANCE, "", amount_minor, "" if amount_minor is None else "EUR")


async def fill(world: SmallWorld) -> None:
    """Every kind of order, on one slot and across two, carried to its end; one in shadow."""
    await world.order(TradeType.TOP_UP, ALICE, 5_000, card())
    await world.order(TradeType.PURCHASE, ALICE, 1_000, balance())
    mixed = await world.order(TradeType.PURCHASE, ALICE, 1_500, balance(500), card(amount_minor=1_000))
    await world.order(TradeType.PURCHASE, ALICE, 700, balance(200), card("tok_declined", 500))
    await world.order(TradeType.PEER_TRANSFER, ALICE, 300, balance())
    await world.order(TradeType.CASH_OUT, ALICE, 400, PayMethod(Tool.BANK, "tok_ok_bank"))
    await world.refund(mixed, 600)
    await world.order(TradeType.PURCHASE, ALICE, 900, card(), shadow=True)


async def begin(world: SmallWorld) -> None:
    """A purchase whose charge is not answered."""
    await world.order(TradeType.PURCHASE, ALICE, 800, card(SILENT))


async def contradict(world: SmallWorld) -> None:
    """The provider contradicts itself about the charge that is not answered: recon opens a break."""
    table = ChannelOrder.__table__
    statement = select(table).where(table.c.state == "UNKNOWN")
    (order,) = await world.stores["channel_gateway"].fetch_everywhere(ChannelOrder, statement, shadow=False)
    context = msgspec.structs.replace(business.unpack(order.context), caller="consumer:matcher")
    body = mismatch_event(order, "said SUCCEEDED, then FAILED").SerializeToString()
    consumer = world.listeners["recon"]
    command = consumer.to_command(context, "msg-of-the-test", recon_consumers.MISMATCH_FOUND, body)
    assert command is not None
    await world.stores["recon"].run(command)
    await world.carry()
