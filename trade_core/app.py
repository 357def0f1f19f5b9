"""The composition root of trade_core."""

from __future__ import annotations

from paykit import compensation
from paykit.clock import Clock
from paykit.events.bus import Bus
from paykit.events.calls import DurableCall
from paykit.events.consumers import Consumer
from paykit.events.timers import Timer
from paykit.service import Service
from paykit.settings import CommonSettings
from paymesh.ops.v1.compensation_service_pb2_grpc import add_CompensationServiceServicer_to_server
from paymesh.trade.v1.trade_service_pb2_grpc import add_TradeServiceServicer_to_server
from trade_core import catalogue, merchant_trades, payments, records
from trade_core.api import TradeApi
from trade_core.compensation import DESK, Completion, TakeCompensation
from trade_core.consumers import CONSUMER, PAYMENT_SUBJECTS, PaymentNews
from trade_core.notify import Notifier
from trade_core.peers import Peers
from trade_core.settings import TradeCoreSettings
from trade_core.steps import SUBJECTS, Policy
from trade_core.tables import Compensation, PayAttempt, Trade, TradeLine, TradeRelation
from trade_core.tree import TradeTree

PAY_CORE = "pay_core"


def build(settings: TradeCoreSettings, common: CommonSettings, bus: Bus, clock: Clock) -> Service:
    """Puts trade_core together, not yet started. ConfigurationError where a trade type makes no sense."""
    service = Service("trade_core", settings, common, bus=bus, clock=clock)
    policy = Policy(
        catalogue=catalogue.load(),
        ask_after_ms=int(settings.ask_after_s * 1000),
        ask_after_ms_max=int(settings.ask_after_max_s * 1000),
    )
    notifier = Notifier(settings.max_watchers)
    service.store.subscribe(notifier.committed)
    get_payment = service.channels.batch(PAY_CORE, payments.GET_PAYMENT)
    news = PaymentNews(service.store, policy, notifier, get_payment)
    peers = Peers(service.channels, service.store)
    tree = TradeTree(service.store, peers, clock, settings.tree_wait_max_s, settings.deadline_margin_s)
    api = TradeApi(service.store, policy, notifier, settings, clock, tree)
    service.add_servicer(add_TradeServiceServicer_to_server, api)
    service.add_consumer(Consumer(CONSUMER, PAYMENT_SUBJECTS, news.to_command))
    service.add_consumer(Consumer(merchant_trades.CONSUMER, tuple(sorted(SUBJECTS)), merchant_trades.to_command))
    for method in payments.REQUESTS:
        service.add_call(DurableCall(method, on_reply=news.on_reply, on_refused=news.on_refused), PAY_CORE)
    service.add_records(records.SOURCES)
    service.add_timer(Timer("trade_due", Trade, news.on_due))
    repairs = compensation.CompensationApi(service.store, DESK, TakeCompensation, settings.compensation_callers)
    service.add_servicer(add_CompensationServiceServicer_to_server, repairs)
    service.add_consumer(compensation.consumer(DESK, TakeCompensation))
    service.add_timer(Completion(service.store, policy, notifier, get_payment).timer())
    for prefix, row_type in (("trd", Trade), ("lin", TradeLine), ("rel", TradeRelation), ("att", PayAttempt)):
        service.add_lookup(prefix, row_type)
    service.add_lookup("rpr", Compensation, "repair_id")
    return service
