"""A channel that takes 10 s to answer beside one that takes 50 ms: what the fast one notices of it.

Run as a module it is a load on one channel of the gateway: ``steady`` keeps a bounded number of orders under way, each
until the news that it succeeded; ``flood`` offers more than the channel takes, whatever it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from bench import children
from bench.children import LoadFailed
from bench.flow import Outcome, Pace, Room, Watch, flow, heard
from bench.measure import Sample, sample_of
from meshctl.layout import write_configuration
from meshctl.settings import SERVICES, load_mesh
from meshctl.stack import Stack
from paykit.context import mint, to_metadata
from paykit.ids import SLOT_COUNT, new_id
from paykit.rpc import loop
from paykit.rpc.errors import from_rpc_error
from paymesh.channel.v1 import channel_order_pb2, channel_service_pb2, channel_state_service_pb2
from paymesh.channel.v1.channel_service_pb2_grpc import ChannelServiceStub
from paymesh.channel.v1.channel_state_service_pb2_grpc import ChannelStateServiceStub
from paymesh.common.v1.money_pb2 import Money
from paymesh.event.v1.events_pb2 import ChannelOrderEvent

MODULE = "bench.slow_channel"
GATEWAY = "channel_gateway"
FAST, SLOW = "sandbox_card", "sandbox_slow"
FAST_MS, SLOW_MS = 50, 10_000
IN_FLIGHT, QUEUE = 128, 256  # of the slow channel: it takes half a minute to work them off
MERCHANTS = 20
SUCCEEDED = "live.channel.order_succeeded"
CALLS = "paymesh_channel_calls_total"
DONE = (SLOW, "SUCCEEDED")
PACE = Pace(callers=16, batch=1, under_way=16, warm_s=2, seconds=12)
FLOOD_CALLERS = 4
FLOOD_PAUSE_S = 0.04  # after a refusal, as a caller waits that comes again: 100 a second in all
CALL_TIMEOUT_S = 20
FULL_TIMEOUT_S = 60
DRAIN_TIMEOUT_S = 120
START_TIMEOUT_S = 20


class Load(msgspec.Struct, frozen=True):
    """A load on ``channel`` of the gateway of ``config``: steady at ``pace``, or a flood for ``flood_s``."""

    config: str
    channel: str
    pace: Pace
    flood_s: float = 0.0


class Steady(msgspec.Struct, frozen=True):
    """From call to news, and the calls alone."""

    outcome: Outcome
    submit: Sample


class Flood(msgspec.Struct, frozen=True):
    """What became of a flood, which ended at ``ended_s`` of the machine's monotonic clock. ``refused``: those alone."""

    accepted: int
    refused: int
    submit: Sample
    refused_submit: Sample
    ended_s: float


class Beside(msgspec.Struct, frozen=True):
    """The fast channel beside the flooded slow one."""

    fast: Steady
    slow: Flood


class Submitter:
    """Submits orders to one channel, for one merchant after the other."""

    def __init__(self, stub: Any, channel: str) -> None:
        self._stub = stub
        self._channel = channel
        self._numbers = itertools.count()

    async def submit(self) -> str:
        """One order; its id."""
        number = next(self._numbers)
        now_ms = int(time.time() * 1000)
        slot = number % SLOT_COUNT
        instruction_id = new_id("ins", slot, now_ms)
        request = channel_service_pb2.SubmitChannelOrderRequest(
            request_id=instruction_id,
            kind=channel_order_pb2.CHANNEL_ORDER_KIND_CHARGE,
            channel=self._channel,
            amount=Money(currency_code="EUR", amount_minor=1_000),
            instruction_id=instruction_id,
            payment_id=new_id("pay", slot, now_ms),
            token="tok_ok",
        )
        metadata = [*to_metadata(mint(slot, now_ms)), ("x-biz-code", f"shop{number % MERCHANTS}/PURCHASE/web/card")]
        answer = await self._stub.SubmitChannelOrder(request, metadata=metadata, timeout=CALL_TIMEOUT_S)
        return str(answer.channel_order.channel_order_id)


async def steady(load: Load) -> Steady:
    """The load, in this process, until all it began has succeeded."""
    settings = load_mesh(load.config)
    room = Room(load.pace.under_way)
    watch = Watch(room)
    calls_s: list[float] = []

    def hear(body: bytes) -> None:
        order = ChannelOrderEvent.FromString(body).channel_order
        if order.channel == load.channel:
            watch.news(order.channel_order_id)

    async with (
        heard(settings, SUCCEEDED, hear),
        grpc.aio.insecure_channel(settings.addresses[GATEWAY]) as channel,
    ):
        submitter = Submitter(ChannelServiceStub(channel), load.channel)

        async def send() -> None:
            begun_s = time.monotonic()
            order_id = await submitter.submit()
            calls_s.append(time.monotonic() - begun_s)
            watch.accepted(order_id, begun_s)

        outcome = await flow(send, room, watch, load.pace)
    return Steady(outcome, sample_of(calls_s, load.pace.warm_s + load.pace.seconds))


async def flood(load: Load) -> Flood:
    """The load, in this process: as fast as it can until it is refused, then again and again."""
    settings = load_mesh(load.config)
    took_s: dict[bool, list[float]] = {True: [], False: []}
    begun_s = time.monotonic()
    until_s = begun_s + load.flood_s

    async with grpc.aio.insecure_channel(settings.addresses[GATEWAY]) as channel:
        submitter = Submitter(ChannelServiceStub(channel), load.channel)

        async def caller() -> None:
            while (called_s := time.monotonic()) < until_s:
                is_accepted = await _offer(submitter)
                took_s[is_accepted].append(time.monotonic() - called_s)
                if not is_accepted:
                    await asyncio.sleep(FLOOD_PAUSE_S)

        await asyncio.gather(*(caller() for _ in range(FLOOD_CALLERS)))
    ended_s = time.monotonic()
    if not took_s[False]:
        raise LoadFailed("the flood was never refused")
    return Flood(
        accepted=len(took_s[True]),
        refused=len(took_s[False]),
        submit=sample_of(took_s[True] + took_s[False], ended_s - begun_s),
        refused_submit=sample_of(took_s[False], ended_s - begun_s),
        ended_s=ended_s,
    )


async def _offer(submitter: Submitter) -> bool:
    """Whether an order was taken; LoadFailed where it was refused for anything but want of room."""
    try:
        await submitter.submit()
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        if refusal.reason != "CHANNEL_BUSY":
            raise LoadFailed(f"refused: {refusal.reason}") from None
        return False
    return True


@contextlib.contextmanager
def two_providers(stack: Stack) -> Iterator[None]:
    """Has the gateway alone running, with a fast and a slow channel, each to a provider of its own."""
    config = tomllib.loads(stack.config.read_text())
    config["sandbox"]["latency_ms"] = FAST_MS
    slow = {"latency_ms": SLOW_MS, "port": 0, "book_path": str(stack.directory / "slow_book.sqlite")}
    slow_file = stack.directory / "slow_provider.toml"
    write_configuration(slow_file, {"sandbox": config["sandbox"] | slow})
    command = [sys.executable, "-m", "channel_gateway.sandbox", "--config", str(slow_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=children.ROOT) as provider:
        try:
            assert provider.stdout is not None
            url = provider.stdout.readline().split()[-1]
            channels = config[GATEWAY]["channels"]
            limits = {"max_in_flight": IN_FLIGHT, "max_queue": QUEUE, "timeout_s": 2 * SLOW_MS / 1000}
            # The same account, with another name here and a provider that takes its time.
            channels[SLOW] = channels[FAST] | {"base_url": url} | limits
            channels[SLOW].pop("shadow")
            write_configuration(stack.config, config)
            for name in SERVICES:
                if name != GATEWAY:
                    stack.stop(name)
            for name in ("sandbox", GATEWAY):
                stack.restart(name)
            yield
        finally:
            provider.terminate()


def measure_alone(stack: Stack, pace: Pace) -> Steady:
    """The fast channel while nothing is asked of the slow one."""
    child = children.start(MODULE, Load(str(stack.config), FAST, pace))
    return children.result(child, Steady, pace.warm_s + pace.seconds)


def measure_beside(stack: Stack, pace: Pace) -> Beside:
    """The fast channel while the slow one is flooded, until that has worked all off; LoadFailed where it was not so."""
    before = _succeeded(stack)
    seconds = pace.warm_s + pace.seconds
    flood_s = seconds + FULL_TIMEOUT_S / 4
    flooding = children.start(MODULE, Load(str(stack.config), SLOW, pace, flood_s))
    try:
        _until(stack, lambda state: state.in_flight_count == IN_FLIGHT and state.queued_count >= QUEUE, FULL_TIMEOUT_S)
        fast = measure_alone(stack, pace)
        measured_s = time.monotonic()
    finally:
        slow = children.result(flooding, Flood, flood_s)
    if slow.ended_s < measured_s:
        raise LoadFailed("the flood ended before the fast channel was measured")
    _until(stack, lambda state: state.in_flight_count + state.queued_count == 0, DRAIN_TIMEOUT_S)
    done = _succeeded(stack) - before
    if done != slow.accepted:
        raise LoadFailed(f"{slow.accepted} orders were taken by the slow channel, and {done} done")
    return Beside(fast, slow)


def _succeeded(stack: Stack) -> int:
    """How many calls to the slow channel were answered with a success."""
    with urllib.request.urlopen(f"http://{stack.settings.service(GATEWAY).metrics_listen}/metrics", timeout=10) as page:
        families = text_string_to_metric_families(page.read().decode())
    samples = (sample for family in families for sample in family.samples if sample.name == CALLS)
    return sum(int(each.value) for each in samples if (each.labels["channel"], each.labels["status"]) == DONE)


def _until(stack: Stack, holds: Any, timeout_s: float) -> None:
    """Waits until the state of the slow channel is as wanted."""
    until_s = time.monotonic() + timeout_s
    request = channel_state_service_pb2.ListChannelStatesRequest(channel=SLOW, page_size=1)
    with grpc.insecure_channel(stack.settings.addresses[GATEWAY]) as channel:
        stub: Any = ChannelStateServiceStub(channel)
        while True:
            (state,) = stub.ListChannelStates(request, timeout=CALL_TIMEOUT_S).states
            if holds(state):
                return
            if time.monotonic() > until_s:
                raise LoadFailed(f"the slow channel did not come to be as wanted: {state}")
            time.sleep(0.1)


if __name__ == "__main__":
    argument = children.argument(Load)
    children.answer(loop.run(flood(argument) if argument.flood_s else steady(argument)))
