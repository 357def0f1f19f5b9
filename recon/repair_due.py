"""What becomes of repairs: due times, the services' events, and, where none comes, their answers."""

from __future__ import annotations

import structlog
from google.protobuf.message import DecodeError

from paykit.context import BusinessContext, current
from paykit.errors import MeshError
from paykit.events.bus import Rejected
from paykit.events.consumers import Consumer
from paykit.events.timers import Timer
from paykit.rpc.channels import Channels
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.event.v1 import compensation_pb2
from paymesh.ops.v1 import compensation_service_pb2, compensation_service_pb2_grpc
from recon.repair import RepairState
from recon.repair_commands import AdvanceRepair, TakeOutcome
from recon.repair_views import OUTCOME_OF, compensation_of
from recon.rules import Rules
from recon.tables import Repair

CONSUMER = "repairs"
SUBJECTS = ("trade.compensation_done", "pay.compensation_done", "channel.compensation_done")

log = structlog.get_logger(__name__)

CompensationResult = compensation_service_pb2.CompensationResult


def consumer(rules: Rules) -> Consumer:
    """Takes what services say they did."""

    def to_command(context: BusinessContext, message_id: str, subject: str, body: bytes) -> TakeOutcome | None:
        try:
            result = compensation_pb2.CompensationDoneEvent.FromString(body).result
            return _outcome(Origin.event(context, CONSUMER, message_id), result, rules)
        except (DecodeError, ValueError) as error:
            raise Rejected(f"{subject} {message_id}: {error}") from error

    return Consumer(CONSUMER, SUBJECTS, to_command)


def _outcome(origin: Origin, result: CompensationResult, rules: Rules) -> TakeOutcome | None:
    """The command for a result; None where the repair is still under way."""
    outcome = OUTCOME_OF.get(result.outcome)
    if outcome is None:
        return None
    return TakeOutcome(origin, result.repair_id, result.service, outcome, result.detail, result.effect_id, rules)


class DueRepairs:
    """Goes on with repairs whose due time has passed."""

    def __init__(self, store: Store, channels: Channels, rules: Rules, timeout_s: float) -> None:
        self._store = store
        self._channels = channels
        self._rules = rules
        self._timeout_s = timeout_s

    def timer(self, interval_s: float) -> Timer[Repair]:
        """Fires on ``recon_repair.due_at_ms``."""
        return Timer("recon-repair", Repair, self.fire, interval_s=interval_s)

    async def fire(self, repair: Repair) -> None:
        """Approves, sends or withdraws it. Of one that was sent nothing has been heard: it is asked for by RPC, which
        carries it out where the event was lost."""
        origin = Origin.timer(current())
        if repair.state == RepairState.SENT:
            command = await self._ask(origin, repair)
            if command is not None:
                await self._store.run(command)
                return
        await self._store.run(AdvanceRepair(origin, repair.id, self._rules))

    async def _ask(self, origin: Origin, repair: Repair) -> TakeOutcome | None:
        stub = compensation_service_pb2_grpc.CompensationServiceStub(self._channels.get(repair.service))
        request = compensation_service_pb2.CompensateRequest(request_id=repair.id, compensation=compensation_of(repair))
        try:
            response = await stub.Compensate(request, timeout=self._timeout_s)
        except MeshError as error:
            log.warning("repair_not_answered", repair_id=repair.id, service=repair.service, reason=error.reason)
            return None
        return _outcome(origin, response.result, self._rules)
