"""recon's composition root."""

from __future__ import annotations

from paykit.clock import Clock
from paykit.events.bus import Bus
from paykit.events.gathering import Gather
from paykit.events.timers import Timer
from paykit.service import Service
from paykit.settings import CommonSettings
from paymesh.recon.v1 import recon_service_pb2_grpc, repair_service_pb2_grpc, report_service_pb2_grpc
from recon import consumers, repair_due
from recon.api import ReconService
from recon.expiry import Expiry
from recon.metrics import Gauges
from recon.peers import Peers
from recon.repair_api import RepairService
from recon.repair_due import DueRepairs
from recon.reports.api import ReportService
from recon.settings import ReconSettings
from recon.statements import wiring
from recon.sweep import Sweeper
from recon.sweep_peers import RecordPeers
from recon.tables import Break, Match, Repair, Sweep


def build(settings: ReconSettings, common: CommonSettings, bus: Bus, clock: Clock) -> Service:
    """The service, not yet started."""
    service = Service("recon", settings, common, bus=bus, clock=clock)
    rules = settings.rules()
    gather = Gather(settings.gather_s, settings.gather_max, settings.gather_pause_s)
    expiry = Expiry(service.store, Peers(service.channels, settings.ask), rules)
    gauges = Gauges(service.store, settings.gauge_interval_s)
    service.add_servicer(recon_service_pb2_grpc.add_ReconServiceServicer_to_server, ReconService(service.store))
    repairs = RepairService(service.store, rules, settings.repairs)
    service.add_servicer(repair_service_pb2_grpc.add_RepairServiceServicer_to_server, repairs)
    wiring.add_to(service, settings.statements, rules)
    service.add_servicer(report_service_pb2_grpc.add_ReportServiceServicer_to_server, ReportService(service.store))
    service.add_consumer(consumers.consumer(rules, gather, clock))
    service.add_consumer(repair_due.consumer(rules))
    due_repairs = DueRepairs(service.store, service.channels, rules, settings.ask.timeout_s)
    service.add_timer(due_repairs.timer(settings.repairs.timer_interval_s))
    service.add_timer(Timer("recon-window", Match, expiry.fire, interval_s=settings.timer_interval_s))
    sweeper = Sweeper(service.store, RecordPeers(service.channels), rules, settings.sweep.rules())
    service.add_background(sweeper.start, sweeper.stop)
    service.add_timer(Timer("recon-sweep", Sweep, sweeper.fire, interval_s=settings.sweep.timer_interval_s))
    service.add_lookup("brk", Break)
    service.add_lookup("mat", Match)
    service.add_lookup("rpr", Repair)
    service.add_background(gauges.start, gauges.stop)
    return service
