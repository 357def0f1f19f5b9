"""What statements add to the service."""

from __future__ import annotations

from paykit.events.timers import Timer
from paykit.service import Service
from paymesh.recon.v1 import statement_service_pb2_grpc
from recon.rules import Rules
from recon.statements.api import StatementService
from recon.statements.importing import Importer
from recon.statements.recovery import Recovery
from recon.statements.settings import StatementsSettings
from recon.tables import Statement, StatementLine


def add_to(service: Service, settings: StatementsSettings, rules: Rules) -> None:
    """Imports by RPC, and what goes on with those whose process went away."""
    importer = Importer(service.store, settings, rules)
    servicer = StatementService(service.store, importer)
    service.add_servicer(statement_service_pb2_grpc.add_StatementServiceServicer_to_server, servicer)
    recovery = Recovery(service.store, settings, rules, service.clock)
    service.add_timer(Timer("recon-statement", Statement, recovery.fire, interval_s=settings.timer_interval_s))
    service.add_lookup("stm", Statement)
    service.add_lookup("stl", StatementLine, parent=Statement, parent_column="statement_id")
