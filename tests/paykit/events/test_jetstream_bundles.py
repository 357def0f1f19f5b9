"""Several events in one message of JetStream: each is still handled, fails and is given up for itself."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence

import nats
import pytest
from nats.aio.msg import Msg

from paykit.errors import Unavailable
from paykit.events.bundle import BUNDLE, BYTES_MAX, EVENTS_MAX, is_bundle
from paykit.events.bus import Rejected, Together, open_bus
from paykit.events.message import MESSAGE_ID, Delivery, Message
from paykit.settings import BusSettings
from tests.paykit.events.backends import JetStreamBackend
from tests.paykit.events.test_bus_contract import Taker, message, publish, subscription

pytestmark = pytest.mark.nats


class Fussy(Taker):
    """Takes all but those of some ids."""

    def __init__(self, error: Exception, *ids: str, failures: int = 1_000) -> None:
        super().__init__()
        self._error, self._ids, self._failures = error, ids, failures

    async def __call__(self, delivery: Delivery) -> None:
        await super().__call__(delivery)
        if delivery.message.id in self._ids and delivery.attempt <= self._failures:
            raise self._error


async def on_the_wire(jetstream: JetStreamBackend, stream: str = "LIVE") -> list[Msg]:
    """The messages that a stream holds, as the server has them."""
    client = await nats.connect(jetstream.server.url)
    try:
        js = client.jetstream()
        state = (await js.stream_info(stream)).state
        found = []
        for seq in range(state.first_seq, state.last_seq + 1):
            raw = await js.get_msg(stream, seq)
            found.append(Msg(client, subject=raw.subject or "", data=raw.data or b"", headers=raw.headers))
        return found
    finally:
        await client.close()


async def test_events_of_one_subject_travel_together_and_come_out_as_they_were(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    taker = Taker()
    await bus.subscribe(subscription(), taker)
    sent = [
        Message(f"m-{n}", "live.pay.a", {MESSAGE_ID: f"m-{n}", "x-biz-id": f"biz {n}", "x-more": " é "}, b"%d" % n)
        for n in range(EVENTS_MAX + 20)
    ]
    await publish(bus, *sent)
    await taker.has(len(sent))
    assert sorted(taker.seen, key=lambda one: int(one.message.body)) == [Delivery(one, 1) for one in sent]
    assert len(await on_the_wire(jetstream)) == 2


async def test_one_event_is_sent_plain(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    await publish(bus, message(1), message(2, "live.pay.other"))
    found = await on_the_wire(jetstream)
    assert [(one.subject, one.headers, one.data) for one in found] == [
        (one.subject, one.headers, one.body) for one in (message(1), message(2, "live.pay.other"))
    ]


async def test_sends_each_event_by_itself_while_some_process_cannot_take_several(jetstream: JetStreamBackend) -> None:
    bus = open_bus(BusSettings(kind="nats", url=jetstream.server.url, bundle_max=1))
    await bus.start()
    sent = [message(n) for n in range(5)]
    await publish(bus, *sent)
    await bus.stop()
    found = await on_the_wire(jetstream)
    assert Counter(one.data for one in found) == Counter(one.body for one in sent)
    assert not any(is_bundle(one.headers or {}) for one in found)


async def test_a_bundle_that_is_sent_again_is_recognised(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    await publish(bus, message(1), message(2))
    await publish(bus, message(1), message(2))
    assert len(await on_the_wire(jetstream)) == 1


async def test_large_bodies_make_several_bundles_and_one_too_large_fails_alone(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    taker = Taker()
    await bus.subscribe(subscription(), taker)
    bodies = [b"x" * 40_000] * 12 + [b"y" * (2 * BYTES_MAX), b"z" * 2_000_000]
    sent = [Message(f"m-{n}", "live.pay.a", {MESSAGE_ID: f"m-{n}"}, body) for n, body in enumerate(bodies)]
    outcomes = await bus.publish(sent)
    assert outcomes[:-1] == [None] * 13
    assert isinstance(outcomes[-1], Exception)
    await taker.has(13)
    assert taker.ids == Counter(one.id for one in sent[:-1])
    found = await on_the_wire(jetstream)
    assert len(found) == 5
    assert all(len(one.data) <= BYTES_MAX for one in found if is_bundle(one.headers or {}))


async def test_shadow_travels_apart(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    live, shadow = Taker(), Taker()
    await bus.subscribe(subscription(mode="live"), live)
    await bus.subscribe(subscription(mode="shadow"), shadow)
    await publish(bus, *(message(n, f"{'shadow' if n % 2 else 'live'}.pay.a") for n in range(20)))
    await asyncio.gather(live.has(10), shadow.has(10))
    assert {int(id_[2:]) % 2 for id_ in live.ids} == {0}
    assert {int(id_[2:]) % 2 for id_ in shadow.ids} == {1}
    assert [len(await on_the_wire(jetstream, stream)) for stream in ("LIVE", "SHADOW")] == [1, 1]


async def test_only_the_event_that_failed_comes_again(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    taker = Fussy(RuntimeError("not yet"), "m-3", "m-7", failures=2)
    await bus.subscribe(subscription(max_deliveries=5), taker)
    await publish(bus, *(message(n) for n in range(10)))
    await taker.has(14)
    await publish(bus, message(99))
    await taker.has(15)
    assert taker.ids == {f"m-{n}": 3 if n in (3, 7) else 1 for n in (*range(10), 99)}
    assert [one.attempt for one in taker.seen if one.message.id == "m-7"] == [1, 2, 3]


async def test_an_event_that_keeps_failing_is_given_up_alone(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    taker, dead, given_up = Fussy(RuntimeError("never"), "m-3"), Taker(), []

    async def give_up(delivery: Delivery, error: Exception) -> None:
        given_up.append((delivery.message.id, delivery.attempt))

    await bus.subscribe(subscription(max_deliveries=3), taker, give_up)
    await bus.subscribe(subscription("dead.>", consumer="undertaker"), dead)
    await publish(bus, *(message(n) for n in range(6)))
    await dead.has(1)
    assert given_up == [("m-3", 3)]
    assert [(one.message.body, one.message.headers["x-biz-id"]) for one in dead.seen] == [(message(3).body, "biz")]
    assert taker.ids == {f"m-{n}": 3 if n == 3 else 1 for n in range(6)}


async def test_an_event_that_is_refused_does_not_hold_up_one_that_waits_for_better_times(
    jetstream: JetStreamBackend,
) -> None:
    bus = await jetstream.open()
    dead = Taker()
    errors = {"m-1": Rejected("unreadable"), "m-2": Unavailable("the shard is away")}

    class Mixed(Taker):
        async def __call__(self, delivery: Delivery) -> None:
            await super().__call__(delivery)
            if delivery.message.id in errors and delivery.attempt < 5:
                raise errors[delivery.message.id]

    taker = Mixed()
    await bus.subscribe(subscription(max_deliveries=2), taker)
    await bus.subscribe(subscription("dead.>", consumer="undertaker"), dead)
    await publish(bus, *(message(n) for n in range(4)))
    await asyncio.gather(taker.has(8), dead.has(1))
    assert taker.ids == {"m-0": 1, "m-1": 1, "m-2": 5, "m-3": 1}
    assert dead.seen[0].message.body == message(1).body


async def test_a_bundle_that_nobody_can_read_is_given_up_once(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    taker, dead, given_up = Taker(), Taker(), []

    async def give_up(delivery: Delivery, error: Exception) -> None:
        given_up.append((delivery.message.id, type(error)))

    await bus.subscribe(subscription(), taker, give_up)
    await bus.subscribe(subscription("dead.>", consumer="undertaker"), dead)
    broken = Message("bundle-x", "live.pay.a", {MESSAGE_ID: "bundle-x", BUNDLE: "1"}, b"\xffnonsense")
    await publish(bus, broken)
    await publish(bus, message(1))
    await asyncio.gather(taker.has(1), dead.has(1))
    assert given_up == [("bundle-x", Rejected)]
    assert dead.seen[0].message.body == broken.body
    assert BUNDLE not in dead.seen[0].message.headers  # else who listens to the dead letters could not read it either
    assert taker.ids == {"m-1": 1}
    assert len(await on_the_wire(jetstream)) == 3


async def test_another_process_takes_the_bundle_of_one_that_was_killed(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    command = (sys.executable, "-m", "tests.paykit.events.dying", jetstream.server.url)
    dying = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    await publish(bus, *(message(n) for n in range(6)))
    assert dying.stdout is not None
    async with asyncio.timeout(60):
        assert await dying.stdout.readline() == b"m-2\n"
    dying.kill()
    await dying.wait()
    taker = Taker()
    await bus.subscribe(subscription(), taker)
    await taker.has(6)
    # All of it: that two were done is known to the inbox of their consumer alone.
    assert taker.ids == Counter(message(n).id for n in range(6))
    assert {delivery.attempt for delivery in taker.seen} == {2}


async def test_events_beyond_the_bound_wait_and_a_stop_gives_them_back(jetstream: JetStreamBackend) -> None:
    first, second = await jetstream.open(), await jetstream.open()
    begun, release = Taker(), asyncio.Event()

    async def hang(delivery: Delivery) -> None:
        await begun(delivery)
        await release.wait()

    await first.subscribe(subscription(max_in_flight=3), hang)
    await publish(first, *(message(n) for n in range(20)))
    await begun.has(3)
    await jetstream.close(first)
    assert len(begun.seen) == 3
    taker = Taker()
    await second.subscribe(subscription(max_in_flight=3), taker)
    await taker.has(20)
    assert set(taker.ids.values()) == {1}


async def test_no_more_events_than_the_bound_are_handled_at_once(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    taker, busy, most = Taker(), 0, 0

    async def work(delivery: Delivery) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.001)
        busy -= 1
        await taker(delivery)

    chunks, together = list[int](), Taker()

    async def work_together(deliveries: Sequence[Delivery]) -> list[Exception | None]:
        chunks.append(len(deliveries))
        for delivery in deliveries:
            await together(delivery)
        return [None] * len(deliveries)

    await bus.subscribe(subscription(consumer="single", max_in_flight=5), work)
    await bus.subscribe(subscription(consumer="together", max_in_flight=5), Together(work_together))
    await publish(bus, *(message(n) for n in range(200)))
    await asyncio.gather(taker.has(200), together.has(200))
    assert most == 5
    assert max(chunks) == 5
    assert set(taker.ids.values()) == set(together.ids.values()) == {1}


async def test_a_busy_process_leaves_bundles_to_others(jetstream: JetStreamBackend) -> None:
    first, second = await jetstream.open(), await jetstream.open()
    begun, release, other = Taker(), asyncio.Event(), Taker()

    async def hang(delivery: Delivery) -> None:
        await begun(delivery)
        await release.wait()

    await publish(first, *(message(n) for n in range(20 * EVENTS_MAX)))
    await first.subscribe(subscription(max_in_flight=EVENTS_MAX), hang)
    await begun.has(EVENTS_MAX)
    await second.subscribe(subscription(max_in_flight=EVENTS_MAX), other)
    await other.has(19 * EVENTS_MAX)
    release.set()


async def test_a_bundle_is_kept_as_long_as_one_of_its_events_takes(jetstream: JetStreamBackend) -> None:
    bus = await jetstream.open()
    done = Taker()

    async def slow(delivery: Delivery) -> None:
        await asyncio.sleep(2)  # one after another, longer than the backend's ack_wait_s: time itself is tested
        await done(delivery)

    await bus.subscribe(subscription(max_in_flight=1), slow)
    await publish(bus, *(message(n) for n in range(3)))
    await done.has(3)
    await publish(bus, message(9))
    await done.has(4)
    assert set(done.ids.values()) == {1}
