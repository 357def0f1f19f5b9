"""The composition root of pay_core."""

from __future__ import annotations

from functools import partial

from pay_core import records
from pay_core.adjustment_commands import DESK, TakeCompensation
from pay_core.api import BenefitApi, LedgerApi, PayApi, TransitApi
from pay_core.completion import Completion
from pay_core.consumers import ChannelResults, DuePayments
from pay_core.end_of_day import EndOfDay
from pay_core.rule_versions import keep_rules
from pay_core.rules import RuleBook
from pay_core.settings import PayCoreSettings
from pay_core.tables import Adjustment, Compensation, Hold, Instruction, Journal, Payment, PaymentCase
from pay_core.terms import TermsBook
from pay_core.tools.balance import DRAW_TRANSIT, RECEIVE_TRANSIT
from pay_core.transit import SETTLE_TRANSIT
from paykit import compensation
from paykit.clock import Clock
from paykit.events.bus import Bus
from paykit.events.calls import DurableCall
from paykit.service import Service
from paykit.settings import CommonSettings
from paymesh.ops.v1.compensation_service_pb2_grpc import add_CompensationServiceServicer_to_server
from paymesh.pay.v1 import ledger_service_pb2_grpc, pay_service_pb2_grpc

NAME = "pay_core"


def build(settings: PayCoreSettings, common: CommonSettings, bus: Bus, clock: Clock) -> Service:
    """The service, wired and not started."""
    service = Service(NAME, settings, common, bus=bus, clock=clock)
    store = service.store
    rules = RuleBook(settings.rules_path, on_activated=partial(keep_rules, store))
    service.add_background(rules.start, rules.stop)
    terms = TermsBook(rules, settings.channel_result_due_s, settings.channel_result_due_max_s)
    service.add_servicer(pay_service_pb2_grpc.add_PayServiceServicer_to_server, PayApi(store, terms, service.channels))
    service.add_servicer(ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server, LedgerApi(store))
    service.add_servicer(ledger_service_pb2_grpc.add_BenefitServiceServicer_to_server, BenefitApi(store))
    service.add_servicer(ledger_service_pb2_grpc.add_TransitServiceServicer_to_server, TransitApi(store, terms))
    results = ChannelResults(store, service.channels, terms)
    service.add_records(records.SOURCES)
    service.add_consumer(results.consumer())
    service.add_timer(DuePayments(store, service.channels, terms).timer())
    service.add_call(results.call(), "channel_gateway")
    for timer in EndOfDay(store, int(settings.drain_s * 1000)).timers():
        service.add_timer(timer)
    for method in (RECEIVE_TRANSIT, DRAW_TRANSIT, SETTLE_TRANSIT):
        service.add_call(DurableCall(method), NAME)
    repairs = compensation.CompensationApi(store, DESK, TakeCompensation, settings.compensation_callers)
    service.add_servicer(add_CompensationServiceServicer_to_server, repairs)
    service.add_consumer(compensation.consumer(DESK, TakeCompensation))
    service.add_timer(Completion(store, service.channels, terms).timer())
    service.add_lookup("pay", Payment)
    service.add_lookup("ins", Instruction, parent=Payment, parent_column="payment_id")
    service.add_lookup("hld", Hold, parent=Payment, parent_column="payment_id")
    service.add_lookup("jnl", Journal)
    service.add_lookup("cas", PaymentCase)
    service.add_lookup("adj", Adjustment)
    service.add_lookup("rpr", Compensation, "repair_id")
    return service
