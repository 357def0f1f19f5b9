"""ChannelStateService: how channels stand, and what people set them to. Checks fields, decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from channel_gateway.channels import ChannelSet
from channel_gateway.limits.breaker import BreakerState
from channel_gateway.limits.schedule import CHANNEL
from channel_gateway.limits.scope import ScopeState
from channel_gateway.overrides import OVERRIDES_MAX, Override, OverrideMode, OverrideWatch, SetOverride
from channel_gateway.tables import ChannelOverride
from channel_gateway.worker import Dispatcher, LaneState
from paykit.context import current
from paykit.errors import ResourceExhausted
from paykit.rpc.admission import ServicerContext
from paykit.rpc.checks import Fields, encode_page_token
from paykit.store.command import Origin
from paykit.store.store import Store
from paymesh.channel.v1 import channel_state_service_pb2 as pb
from paymesh.channel.v1 import channel_state_service_pb2_grpc

_SET_OVERRIDE = "SetChannelOverride"
_REASON_MAX_CHARS = 255
_MS_MAX = 253_402_300_799_000  # the end of the year 9999
_NS_PER_MS = 1_000_000
_OVERRIDE_MODE: Any = pb.OverrideMode  # to stubs a class, at run time the wrapper that checks take
_MODE_OF = {_OVERRIDE_MODE.Value(f"OVERRIDE_MODE_{mode.value}"): mode for mode in OverrideMode}
_MODES = {mode.value: number for number, mode in _MODE_OF.items()}
_BREAKERS = {state: pb.BreakerState.Value(f"BREAKER_STATE_{state.value}") for state in BreakerState}

Overrides = Mapping[tuple[str, str], ChannelOverride]


class ChannelStateService(channel_state_service_pb2_grpc.ChannelStateServiceServicer):
    """The gRPC servicer."""

    def __init__(self, store: Store, channels: ChannelSet, dispatcher: Dispatcher, watch: OverrideWatch) -> None:
        self._store = store
        self._channels = channels
        self._dispatcher = dispatcher
        self._watch = watch

    async def ListChannelStates(
        self, request: pb.ListChannelStatesRequest, context: ServicerContext
    ) -> pb.ListChannelStatesResponse:
        fields = Fields()
        channel = fields.name("channel", request.channel, required=False)
        page_size = fields.page_size(request.page_size)
        scope = f"channel_states/{channel}"
        after = fields.page_token(request.page_token, scope, tuple[str, str])
        fields.raise_if_any()
        mode = current().mode
        if channel:
            self._channels.get(mode, channel)
        lanes = self._dispatcher.states(mode)
        names = sorted(
            (name, merchant) for name, lane in lanes.items() if channel in ("", name) for merchant in lane.scopes
        )
        left = [name for name in names if after is None or name > after]
        overrides, now_ms = self._watch.in_force(mode), self._store.clock.now_ms()
        return pb.ListChannelStatesResponse(
            states=[_state(*name, lanes[name[0]], overrides, now_ms) for name in left[:page_size]],
            next_page_token=encode_page_token(scope, left[page_size - 1]) if len(left) > page_size else "",
        )

    async def SetChannelOverride(
        self, request: pb.SetChannelOverrideRequest, context: ServicerContext
    ) -> pb.SetChannelOverrideResponse:
        wanted = _wanted(request)
        business = current()
        self._channels.get(business.mode, wanted.channel)
        in_force = self._watch.in_force(business.mode)
        is_new = (wanted.channel, wanted.merchant) not in in_force
        if is_new and wanted.mode is not OverrideMode.NONE and len(in_force) >= OVERRIDES_MAX:
            raise ResourceExhausted(f"{OVERRIDES_MAX} overrides are in force", reason="TOO_MANY_OVERRIDES")
        origin = Origin.rpc(business, _SET_OVERRIDE, wanted.key, request.request_id, request)
        row = await self._store.run(SetOverride(origin, wanted))
        await self._watch.refresh(business.mode)
        return pb.SetChannelOverrideResponse(override=_override(row))


def _wanted(request: pb.SetChannelOverrideRequest) -> Override:
    """What is asked for; InvalidArgument names every field that is wrong."""
    fields = Fields()
    fields.request_id(request.request_id)
    channel = fields.name("channel", request.channel)
    merchant = fields.name("merchant", request.merchant, required=False)
    mode = _MODE_OF.get(fields.enum("mode", request.mode, _OVERRIDE_MODE))
    reason = fields.text("reason", request.reason, _REASON_MAX_CHARS, required=True)
    expire_at_ms = None
    if request.HasField("expire_time"):
        expire_at_ms = request.expire_time.seconds * 1000 + request.expire_time.nanos // _NS_PER_MS
        if not 0 < expire_at_ms <= _MS_MAX:
            fields.fail("expire_time", "not a time")
    if mode is OverrideMode.NONE and expire_at_ms is not None:
        fields.fail("expire_time", "only where something is forced")
    elif mode not in (None, OverrideMode.NONE) and expire_at_ms is None:
        fields.fail("expire_time", "required")
    fields.raise_if_any()
    assert mode is not None
    return Override(channel=channel, merchant=merchant, mode=mode, reason=reason, expire_at_ms=expire_at_ms)


def _state(channel: str, merchant: str, lane: LaneState, overrides: Overrides, now_ms: int) -> pb.ChannelState:
    scope: ScopeState = lane.scopes[merchant]
    override = overrides.get((channel, merchant))

    def at(ns: int) -> Timestamp:
        return _timestamp(now_ms + (ns - lane.now_ns) // _NS_PER_MS)

    return pb.ChannelState(
        channel=channel,
        merchant=merchant,
        breaker_state=_BREAKERS[scope.breaker],
        breaker_since_time=at(scope.since_ns),
        breaker_retry_time=None if scope.opens_up_at_ns is None else at(scope.opens_up_at_ns),
        window_count=scope.calls_count,
        window_failed_count=scope.failed_count,
        window_slow_count=scope.slow_count,
        in_flight_count=scope.in_flight,
        in_flight_max=scope.in_flight_max,
        queued_count=scope.queued,
        queued_query_count=scope.queries_queued,
        queue_max=scope.queue_max,
        token_count=scope.tokens,
        success_ppm=lane.success_ppm if merchant == CHANNEL else None,
        override=None if override is None else _override(override),
    )


def _override(row: ChannelOverride) -> pb.ChannelOverride:
    return pb.ChannelOverride(
        override_id=row.id,
        channel=row.channel,
        merchant=row.merchant,
        mode=_MODES[row.mode],
        reason=row.reason,
        caller=row.set_by,
        set_time=_timestamp(row.set_at_ms),
        expire_time=None if row.expire_at_ms is None else _timestamp(row.expire_at_ms),
        version=row.version,
    )


def _timestamp(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * _NS_PER_MS)
