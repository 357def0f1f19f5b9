"""Asks the other services, by RPC, about what their events did not say."""

from __future__ import annotations

import asyncio

from paykit.context import BusinessContext, use
from paykit.errors import MeshError, NotFound
from paykit.ids import is_id
from paykit.rpc.channels import Channels
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2
from paymesh.ops.v1 import ops_service_pb2, ops_service_pb2_grpc
from paymesh.pay.v1 import ledger_service_pb2, ledger_service_pb2_grpc, pay_service_pb2, payment_pb2
from paymesh.trade.v1 import trade_pb2, trade_service_pb2, trade_service_pb2_grpc
from recon import asking
from recon.answers import Answer, Verdict
from recon.asking import Found, Place, Silent
from recon.settings import AskSettings

TRADE_CORE = "trade_core"
PAY_CORE = "pay_core"
CHANNEL_GATEWAY = "channel_gateway"

_GET_PAYMENT = "/paymesh.pay.v1.PayService/GetPayment"
_GET_CHANNEL_ORDER = "/paymesh.channel.v1.ChannelService/GetChannelOrder"
_PAGE_SIZE = 200
_TRADE_LIMIT = 50  # trades of one business id that are looked at
_CLOCK_SKEW_MS = 60_000  # between the servers that stamp payments and entries


class Peers:
    """The services recon asks. Every question is answered: by the service, or by the fact that it did not answer."""

    def __init__(self, channels: Channels, settings: AskSettings) -> None:
        self._settings = settings
        self._get_payment = channels.batch(PAY_CORE, _GET_PAYMENT)
        self._get_channel_order = channels.batch(CHANNEL_GATEWAY, _GET_CHANNEL_ORDER)
        self._trades = trade_service_pb2_grpc.TradeServiceStub(channels.get(TRADE_CORE))
        self._timelines = ops_service_pb2_grpc.OpsServiceStub(channels.get(TRADE_CORE))
        self._ledger = ledger_service_pb2_grpc.LedgerServiceStub(channels.get(PAY_CORE))

    async def ask(self, silent: Silent, context: BusinessContext) -> Answer:
        """What the service that owns the silent side says, within the time the settings give."""
        whom = asking.whom_to_ask(silent)
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                with use(context):
                    if whom == "trade":
                        return asking.of_trades(silent, await self._trades_of(silent, context))
                    if whom == "channel_order":
                        return asking.of_channel_order(silent, await self._channel_order_of(silent, context))
                    payment = await self._payment_of(silent, context)
                    if whom == "payment" or payment is None:
                        return asking.of_payment(silent, payment)
                    return await self._ask_ledger(silent, payment)
        except MeshError as error:
            return Answer(Verdict.UNREACHABLE, f"the {whom} could not be asked for: {error.code} {error.reason}")
        except TimeoutError:
            return Answer(Verdict.UNREACHABLE, f"the {whom} was asked for in vain for {self._settings.timeout_s:g} s")

    async def _payment_of(self, silent: Silent, context: BusinessContext) -> payment_pb2.Payment | None:
        request = pay_service_pb2.GetPaymentRequest(payment_id=silent.payment_id)
        try:
            response = await self._get_payment(request, context, self._settings.timeout_s)
        except NotFound:
            return None
        payment: payment_pb2.Payment = response.payment
        return payment

    async def _channel_order_of(
        self, silent: Silent, context: BusinessContext
    ) -> channel_order_pb2.ChannelOrder | None:
        request = channel_service_pb2.GetChannelOrderRequest(instruction_id=silent.key)
        try:
            response = await self._get_channel_order(request, context, self._settings.timeout_s)
        except NotFound:
            return None
        order: channel_order_pb2.ChannelOrder = response.channel_order
        return order

    async def _trades_of(self, silent: Silent, context: BusinessContext) -> list[trade_pb2.Trade]:
        """The trades of the payment's business id: the payment names its attempt, and trades are read by their own."""
        try:
            timeline = await self._timelines.GetTimeline(
                ops_service_pb2.GetTimelineRequest(id=context.biz_id, shadow=context.shadow)
            )
        except NotFound:
            return []
        changes = [change for entry in timeline.entries for change in entry.changes]
        named = dict.fromkeys(id_ for change in changes for id_ in (change.id, change.parent_id) if is_id(id_, "trd"))
        trades = []
        for trade_id in list(named)[:_TRADE_LIMIT]:
            try:
                response = await self._trades.GetTrade(trade_service_pb2.GetTradeRequest(trade_id=trade_id))
            except NotFound:
                continue
            trades.append(response.trade)
        return trades

    async def _ask_ledger(self, silent: Silent, payment: payment_pb2.Payment) -> Answer:
        place = asking.ledger_place(silent, payment)
        if place is None:
            return asking.of_payment(silent, payment)
        count = sum_minor = 0
        is_complete = True
        for account_id in asking.accounts_at(place, await self._accounts_of(place)):
            found = await self._entries(account_id, silent.payment_id, place)
            count += found.entry_count
            sum_minor += found.sum_minor
            is_complete = is_complete and found.is_complete
        return asking.of_ledger(silent, payment, place, Found(count, sum_minor, is_complete))

    async def _accounts_of(self, place: Place) -> list[ledger_service_pb2.Account]:
        request = ledger_service_pb2.ListAccountsRequest(owner_id=place.owner_id, page_size=_PAGE_SIZE)
        try:
            response = await self._ledger.ListAccounts(request)
        except NotFound:
            return []
        return list(response.accounts)

    async def _entries(self, account_id: str, payment_id: str, place: Place) -> Found:
        """The payment's entries on one account, newest first, as far back as the payment is old."""
        since_ms = place.since_ms - _CLOCK_SKEW_MS
        count = sum_minor = 0
        request = ledger_service_pb2.ListEntriesRequest(account_id=account_id, page_size=_PAGE_SIZE)
        for _ in range(self._settings.page_limit):
            response = await self._ledger.ListEntries(request)
            for entry in response.entries:
                if entry.post_time.ToMilliseconds() < since_ms:
                    return Found(count, sum_minor, is_complete=True)
                if entry.payment_id == payment_id:
                    count += 1
                    sum_minor += entry.amount.amount_minor
            if not response.next_page_token:
                return Found(count, sum_minor, is_complete=True)
            request.page_token = response.next_page_token
        return Found(count, sum_minor, is_complete=False)
