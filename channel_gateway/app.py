"""Puts the channel gateway together."""

from __future__ import annotations

from channel_gateway import records
from channel_gateway.api import ChannelService
from channel_gateway.asking import DoubtAsker
from channel_gateway.channels import ChannelSet
from channel_gateway.compensating import Compensating
from channel_gateway.compensation_commands import DESK, TakeCompensation
from channel_gateway.contexts import OrderContexts
from channel_gateway.doubt_api import DoubtService
from channel_gateway.notifications import NotificationEndpoint
from channel_gateway.overrides import OverrideWatch
from channel_gateway.settings import ChannelGatewaySettings
from channel_gateway.state_api import ChannelStateService
from channel_gateway.tables import (
    ChannelAttempt,
    ChannelDoubt,
    ChannelOrder,
    ChannelOverride,
    Compensation,
    Notification,
)
from channel_gateway.worker import Dispatcher
from paykit import compensation
from paykit.clock import Clock
from paykit.events.bus import Bus
from paykit.events.timers import Timer
from paykit.service import Service
from paykit.settings import CommonSettings
from paymesh.channel.v1 import channel_service_pb2_grpc, channel_state_service_pb2_grpc, doubt_service_pb2_grpc
from paymesh.ops.v1.compensation_service_pb2_grpc import add_CompensationServiceServicer_to_server

NAME = "channel_gateway"


def build(settings: ChannelGatewaySettings, common: CommonSettings, bus: Bus, clock: Clock) -> Service:
    """The service, not started. ConfigurationError where a secret cannot be read."""
    service = Service(NAME, settings, common, bus=bus, clock=clock)
    channels = ChannelSet(settings.channels)
    contexts = OrderContexts(service.store)
    dispatcher = Dispatcher(service.store, channels, contexts)
    endpoint = NotificationEndpoint(
        settings.notification_listen, settings.notifications_in_flight_max, service.store, channels, contexts
    )
    service.add_servicer(
        channel_service_pb2_grpc.add_ChannelServiceServicer_to_server,
        ChannelService(service.store, channels, dispatcher, dispatcher.router),
    )
    watch = OverrideWatch(service.store, dispatcher.force)
    service.add_servicer(
        channel_state_service_pb2_grpc.add_ChannelStateServiceServicer_to_server,
        ChannelStateService(service.store, channels, dispatcher, watch),
    )
    service.add_servicer(doubt_service_pb2_grpc.add_DoubtServiceServicer_to_server, DoubtService(service.store))
    service.add_timer(Timer("channel_order_due", ChannelOrder, dispatcher.take_due))
    service.add_timer(DoubtAsker(service.store, dispatcher).timer())
    repairs = compensation.CompensationApi(service.store, DESK, TakeCompensation, settings.compensation_callers)
    service.add_servicer(add_CompensationServiceServicer_to_server, repairs)
    service.add_consumer(compensation.consumer(DESK, TakeCompensation))
    service.add_timer(Compensating(service.store, dispatcher).timer())
    service.add_records(records.SOURCES)
    service.add_lookup("chn", ChannelOrder)
    service.add_lookup("cat", ChannelAttempt)
    service.add_lookup("dbt", ChannelDoubt)
    service.add_lookup("ntf", Notification)
    service.add_lookup("ins", ChannelOrder, "instruction_id")
    service.add_lookup("rpr", Compensation, "repair_id")
    service.add_lookup("pay", ChannelOrder, "payment_id")
    service.add_lookup("", ChannelOrder, "provider_reference")
    service.add_lookup("ovr", ChannelOverride)
    # What is forced open must not be called before that is known.
    service.add_background(watch.start, watch.stop)
    service.add_background(dispatcher.start, dispatcher.stop)
    # Results are taken in as soon as they can be stored, whether or not anything is being sent.
    service.add_background(endpoint.start, endpoint.stop)
    return service
