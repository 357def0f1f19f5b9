"""Events in: each becomes one command on the slot of the payment it is about, or none where it says nothing new."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from paykit import telemetry
from paykit.clock import Clock
from paykit.context import MODES, BusinessContext
from paykit.events.bus import Rejected
from paykit.events.consumers import Consumer
from paykit.events.gathering import Gather
from paykit.store.command import Origin
from paymesh.event.v1 import events_pb2
from recon import doubts, facts, heard
from recon.commands import TakeFacts, TakeMismatch, TakeOrphan
from recon.doubts import ResolveDoubt, TakeDoubt
from recon.heard import Heard
from recon.rules import Rules

CONSUMER = "matcher"
MISMATCH_FOUND = "channel.mismatch_found"
MISMATCH_RESOLVED = "channel.mismatch_resolved"
SUBJECTS = (*heard.EVENTS, MISMATCH_FOUND, MISMATCH_RESOLVED)
_LAG = telemetry.gauge("recon_lag_seconds", "How long ago it was so, what was heard last", ("mode",))
_LAG_EVERY_MS = 250
_IN_FLIGHT_MAX = 4096  # of each service: events that wait for others of their payment are in flight

Taken = TakeFacts | TakeMismatch | TakeOrphan | TakeDoubt | ResolveDoubt


def consumer(rules: Rules, gather: Gather, clock: Clock) -> Consumer:
    """The one consumer of recon. An event that cannot be read, or names ids of no form, is a dead letter at once."""

    lags = {mode: _LAG.labels(mode) for mode in MODES}
    told_ms = dict.fromkeys(MODES, 0)

    def tell_lag(mode: str, at_ms: int) -> None:
        """Now and then: of each event it would cost more than to read it."""
        now_ms = clock.now_ms()
        if at_ms and now_ms - told_ms[mode] >= _LAG_EVERY_MS:
            told_ms[mode] = now_ms
            lags[mode].set(max(0, now_ms - at_ms) / 1000)

    def to_command(context: BusinessContext, message_id: str, subject: str, body: bytes) -> Taken | None:
        try:
            if subject == MISMATCH_FOUND:
                return _mismatch(context, message_id, body, rules)
            if subject == MISMATCH_RESOLVED:
                doubted, confirmed = doubts.resolved(events_pb2.ChannelDoubtEvent.FromString(body))
                return ResolveDoubt(Origin.event(context, CONSUMER, message_id), doubted, confirmed, rules)
            said = heard.of_event(subject, body, context)
            if said.facts:
                tell_lag(context.mode, said.facts[0].at_ms)
            return TakeFacts(Origin.fold(context), said, rules) if said else None
        except (DecodeError, ValueError) as error:
            raise Rejected(f"{subject} {message_id}: {error}") from error

    return Consumer(CONSUMER, SUBJECTS, to_command, max_in_flight=_IN_FLIGHT_MAX, gather=gather)


def _mismatch(
    context: BusinessContext, message_id: str, body: bytes, rules: Rules
) -> TakeMismatch | TakeOrphan | TakeDoubt:
    event = events_pb2.ChannelMismatchEvent.FromString(body)
    order = event.channel_order
    origin = Origin.event(context, CONSUMER, message_id)
    if not order.instruction_id:  # the provider names an order that channel_gateway does not have
        return TakeOrphan(origin, order.channel_order_id, rules, event.evidence)
    if event.doubt_id:
        return TakeDoubt(origin, doubts.doubted(event), rules)
    risk = (order.amount.amount_minor, order.amount.currency_code)
    said = Heard(order.payment_id, tuple(facts.of_channel_order(order)))
    return TakeMismatch(origin, said, rules, risk, event.evidence)
