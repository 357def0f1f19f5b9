"""What every bus promises. Each test runs on the embedded bus and on JetStream."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial

import pytest

from paykit.errors import Unavailable
from paykit.events.bus import Bus, Rejected, Together
from paykit.events.message import MESSAGE_ID, Delivery, Message, Subscription
from tests.paykit.events.backends import Backend


def message(number: int, subject: str = "live.pay.payment_succeeded") -> Message:
    id_ = f"m-{number}"
    return Message(id_, subject, {MESSAGE_ID: id_, "x-biz-id": "biz"}, b"body %d" % number)


def subscription(
    *subjects: str, consumer: str = "taker", mode: str = "live", max_deliveries: int = 3, max_in_flight: int = 256
) -> Subscription:
    return Subscription(
        consumer=consumer,
        mode=mode,
        subjects=subjects or ("pay.>",),
        max_deliveries=max_deliveries,
        max_in_flight=max_in_flight,
        backoff_s=0.02,
        backoff_max_s=0.1,
    )


async def publish(bus: Bus, *messages: Message) -> None:
    assert await bus.publish(messages) == [None] * len(messages)


class Taker:
    """A handler that counts, and lets a test wait until it has seen enough."""

    def __init__(self) -> None:
        self.seen: list[Delivery] = []
        self._changed = asyncio.Event()

    async def __call__(self, delivery: Delivery) -> None:
        self.seen.append(delivery)
        self._changed.set()

    @property
    def ids(self) -> Counter[str]:
        return Counter(delivery.message.id for delivery in self.seen)

    async def has(self, count: int, timeout_s: float = 20.0) -> None:
        async with asyncio.timeout(timeout_s):
            while len(self.seen) < count:
                self._changed.clear()
                await self._changed.wait()

    async def has_id(self, id_: str) -> None:
        while id_ not in self.ids:
            self._changed.clear()
            await self._changed.wait()


class FailingTaker(Taker):
    def __init__(self, error: Exception, failures: int = 1_000) -> None:
        super().__init__()
        self._error = error
        self._failures = failures

    async def __call__(self, delivery: Delivery) -> None:
        await super().__call__(delivery)
        if len(self.seen) <= self._failures:
            raise self._error


async def test_delivers_each_message_once_to_every_consumer(buses: Backend) -> None:
    bus = await buses.open()
    first, second = Taker(), Taker()
    await bus.subscribe(subscription(consumer="first"), first)
    await bus.subscribe(subscription(consumer="second"), second)
    messages = [message(n) for n in range(700)]
    await publish(bus, *messages)
    await asyncio.gather(first.has(700), second.has(700))
    await publish(bus, message(700))
    await asyncio.gather(first.has(701), second.has(701))
    assert set(first.ids.values()) == {1}
    assert first.ids == second.ids == Counter(m.id for m in [*messages, message(700)])
    assert sorted(first.seen, key=lambda d: int(d.message.id[2:]))[41] == Delivery(message(41), 1)


async def test_delivers_what_was_published_before_the_subscription(buses: Backend) -> None:
    bus = await buses.open()
    await publish(bus, *(message(n) for n in range(1200)))
    taker = Taker()
    await bus.subscribe(subscription(), taker)
    await taker.has(1200)
    assert set(taker.ids.values()) == {1}


async def test_takes_a_second_copy_of_a_message_only_once(buses: Backend) -> None:
    bus = await buses.open()
    taker = Taker()
    await bus.subscribe(subscription(), taker)
    await publish(bus, message(1), message(1))
    await publish(bus, message(1))
    await publish(bus, message(2))
    await taker.has(2)
    assert taker.ids == {"m-1": 1, "m-2": 1}


async def test_redelivers_after_a_failure_and_counts_the_attempts(buses: Backend) -> None:
    bus = await buses.open()
    taker = FailingTaker(RuntimeError("not yet"), failures=2)
    await bus.subscribe(subscription(), taker)
    await publish(bus, message(1))
    await taker.has(3)
    assert [delivery.attempt for delivery in taker.seen] == [1, 2, 3]
    assert taker.ids == {"m-1": 3}


async def test_gives_a_message_up_after_its_last_delivery(buses: Backend) -> None:
    bus = await buses.open()
    taker, dead, given_up = FailingTaker(RuntimeError("never")), Taker(), []

    async def give_up(delivery: Delivery, error: Exception) -> None:
        given_up.append((delivery.message.id, delivery.attempt, str(error)))

    await bus.subscribe(subscription(max_deliveries=3), taker, give_up)
    await bus.subscribe(subscription("dead.>", consumer="undertaker"), dead)
    await publish(bus, message(1))
    await dead.has(1)
    (delivery,) = dead.seen
    assert delivery.message.subject == "live.dead.taker"
    assert delivery.message.body == message(1).body
    assert delivery.message.headers["x-dead-subject"] == message(1).subject
    assert given_up == [("m-1", 3, "never")]
    assert taker.ids == {"m-1": 3}


async def test_gives_a_rejected_message_up_at_once(buses: Backend) -> None:
    bus = await buses.open()
    taker, dead = FailingTaker(Rejected("unreadable")), Taker()
    await bus.subscribe(subscription(max_deliveries=50), taker)
    await bus.subscribe(subscription("dead.taker", consumer="undertaker"), dead)
    await publish(bus, message(1))
    await dead.has(1)
    assert len(taker.seen) == 1


async def test_keeps_a_message_that_could_not_be_given_up(buses: Backend) -> None:
    bus = await buses.open()
    taker, dead, refusals = FailingTaker(RuntimeError("never")), Taker(), [RuntimeError("no ticket"), None]

    async def give_up(delivery: Delivery, error: Exception) -> None:
        refusal = refusals.pop(0)
        if refusal is not None:
            raise refusal

    await bus.subscribe(subscription(max_deliveries=1), taker, give_up)
    await bus.subscribe(subscription("dead.taker", consumer="undertaker"), dead)
    await publish(bus, message(1))
    await dead.has(1)
    assert len(taker.seen) == 2
    assert refusals == []


async def test_does_not_give_up_for_what_passes_by_itself(buses: Backend) -> None:
    bus = await buses.open()
    taker = FailingTaker(Unavailable("the shard is away"), failures=4)
    await bus.subscribe(subscription(max_deliveries=2), taker)
    await publish(bus, message(1))
    await taker.has(5)
    assert [delivery.attempt for delivery in taker.seen] == [1, 2, 3, 4, 5]


async def test_survives_a_restart(buses: Backend) -> None:
    bus = await buses.open()
    before, failing = Taker(), FailingTaker(RuntimeError("down"))
    await bus.subscribe(subscription(consumer="steady"), before)
    await bus.subscribe(subscription(consumer="shaky", max_deliveries=1_000), failing)
    await publish(bus, message(1), message(2))
    await asyncio.gather(before.has(2), failing.has(12))
    await buses.close(bus)

    bus = await buses.open()
    after, recovered = Taker(), FailingTaker(RuntimeError("down still"), failures=6)
    await bus.subscribe(subscription(consumer="shaky", max_deliveries=1_000), recovered)
    await bus.subscribe(subscription(consumer="steady"), after)
    await recovered.has(6)
    await publish(bus, message(3))
    async with asyncio.timeout(20):
        await asyncio.gather(after.has(1), *(recovered.has_id(f"m-{number}") for number in (1, 2, 3)))
    assert after.ids == {"m-3": 1}
    # A nak and a stop may cross: what failed before may come once more than it must.
    assert set(recovered.ids) == {"m-1", "m-2", "m-3"}
    # The first may be told as 1 (see Delivery), so it took several to see that the count went on.
    assert max(delivery.attempt for delivery in recovered.seen) > 6


async def test_delivers_again_what_a_stop_interrupted(buses: Backend) -> None:
    bus = await buses.open()
    begun = Taker()

    async def never(delivery: Delivery) -> None:
        await begun(delivery)
        await asyncio.Event().wait()

    await bus.subscribe(subscription(), never)
    await publish(bus, message(1))
    await begun.has(1)
    await buses.close(bus)

    bus = await buses.open()
    taker = Taker()
    await bus.subscribe(subscription(), taker)
    await taker.has(1)
    assert taker.ids == {"m-1": 1}


async def test_a_handler_may_take_longer_than_the_server_waits(buses: Backend) -> None:
    bus = await buses.open()
    taker, done = Taker(), Taker()

    async def slow(delivery: Delivery) -> None:
        await taker(delivery)
        await asyncio.sleep(4)  # longer than the backend's ack_wait_s: time itself is what is tested
        await done(delivery)

    await bus.subscribe(subscription(), slow)
    await publish(bus, message(1))
    await done.has(1)
    assert taker.ids == {"m-1": 1}


async def test_a_handler_that_hangs_has_failed(buses: Backend) -> None:
    bus = await buses.open()
    taker = Taker()

    async def hang_once(delivery: Delivery) -> None:
        await taker(delivery)
        if delivery.attempt == 1:
            await asyncio.Event().wait()

    impatient = Subscription(consumer="taker", mode="live", subjects=("pay.>",), handle_timeout_s=0.1, backoff_s=0.01)
    await bus.subscribe(impatient, hang_once)
    await publish(bus, message(1))
    await taker.has(2)
    assert [delivery.attempt for delivery in taker.seen] == [1, 2]


async def test_delivers_by_wildcard_and_only_what_matches(buses: Backend) -> None:
    bus = await buses.open()
    one, many, two = Taker(), Taker(), Taker()
    await bus.subscribe(subscription("pay.*", consumer="one"), one)
    await bus.subscribe(subscription("ledger.>", "pay.a", "*.a", consumer="many"), many)
    await bus.subscribe(subscription("pay.a", "pay.b", consumer="two"), two)
    subjects = ["pay.a", "pay.b", "pay.c", "pay.c.d", "ledger.x.y", "trade.a", "trade.b", "pay.a"]
    await publish(bus, *(message(n, f"live.{subject}") for n, subject in enumerate(subjects)))
    await asyncio.gather(one.has(4), many.has(4), two.has(3))
    await publish(bus, message(99, "live.pay.a"))
    await asyncio.gather(one.has(5), many.has(5), two.has(4))
    assert sorted(one.ids) == ["m-0", "m-1", "m-2", "m-7", "m-99"]
    assert sorted(many.ids) == ["m-0", "m-4", "m-5", "m-7", "m-99"]
    assert sorted(two.ids) == ["m-0", "m-1", "m-7", "m-99"]
    assert max((one.ids + many.ids + two.ids).values()) <= 3


async def test_keeps_live_and_shadow_apart(buses: Backend) -> None:
    bus = await buses.open()
    live, shadow = Taker(), Taker()
    await bus.subscribe(subscription(mode="live"), live)
    await bus.subscribe(subscription(mode="shadow"), shadow)
    await publish(bus, message(1, "live.pay.a"), message(2, "shadow.pay.a"), message(3, "live.pay.a"))
    await asyncio.gather(live.has(2), shadow.has(1))
    assert live.ids == {"m-1": 1, "m-3": 1}
    assert shadow.ids == {"m-2": 1}


async def test_subscribers_of_one_consumer_share_the_work(buses: Backend) -> None:
    first_bus, second_bus = await buses.open(), await buses.open()
    release, all_busy, busy, shared = asyncio.Event(), asyncio.Event(), Counter[str](), Taker()

    async def work(name: str, delivery: Delivery) -> None:
        busy[name] += 1
        if busy == {"first": 2, "second": 2}:
            all_busy.set()
        await release.wait()
        await shared(delivery)

    await first_bus.subscribe(subscription(max_in_flight=2), partial(work, "first"))
    await second_bus.subscribe(subscription(max_in_flight=2), partial(work, "second"))
    # Each by itself: what is published together may travel together, to one of them.
    await asyncio.gather(*(publish(first_bus, message(n)) for n in range(20)))
    async with asyncio.timeout(10):
        await all_busy.wait()
    assert busy == {"first": 2, "second": 2}  # no more than each may have in flight
    release.set()
    await shared.has(20)
    assert set(shared.ids.values()) == {1}


async def test_publish_reports_failure_when_the_bus_is_gone(buses: Backend) -> None:
    bus = await buses.open()
    await publish(bus, message(1))
    await buses.go_away()
    async with asyncio.timeout(10):
        outcomes = await bus.publish([message(2), message(3)])
    assert len(outcomes) == 2
    assert all(isinstance(outcome, Exception) for outcome in outcomes)


async def test_goes_on_with_new_messages_when_its_store_was_deleted(buses: Backend) -> None:
    bus = await buses.open()
    taker = Taker()
    await bus.subscribe(subscription(), taker)
    await publish(bus, message(1))
    await taker.has(1)
    await buses.lose_store()
    async with asyncio.timeout(20):
        number = 2
        while taker.ids["m-1"] == len(taker.seen):
            # A publish may fail while the bus comes back: its outbox row would be offered again.
            await bus.publish([message(number)])
            number += 1
            await asyncio.sleep(0.05)
    await publish(bus, message(10_000))
    async with asyncio.timeout(20):
        await taker.has_id("m-10000")


@pytest.mark.parametrize("count", [0, 1])
async def test_publishes_any_number(buses: Backend, count: int) -> None:
    bus = await buses.open()
    assert await bus.publish([message(n) for n in range(count)]) == [None] * count


async def test_tells_since_when_it_has_kept_messages(buses: Backend) -> None:
    bus = await buses.open()
    await publish(bus, message(1))
    begun_at_ms = await bus.kept_since_ms("live")
    assert abs(begun_at_ms - time.time() * 1000) < 60_000
    await buses.close(bus)
    bus = await buses.open()
    assert await bus.kept_since_ms("live") == begun_at_ms
    lost_at_ms = int(time.time() * 1000)
    await buses.close(bus)
    await buses.lose_store()
    bus = await buses.open()
    assert await bus.kept_since_ms("live") >= lost_at_ms
    assert await bus.kept_since_ms("shadow") >= lost_at_ms


async def test_hands_over_together_what_a_handler_takes_together(buses: Backend) -> None:
    bus = await buses.open()
    taker, dead, sizes = Taker(), Taker(), list[int]()

    async def take(deliveries: Sequence[Delivery]) -> list[Exception | None]:
        sizes.append(len(deliveries))
        outcomes: list[Exception | None] = []
        for delivery in deliveries:
            await taker(delivery)
            number = int(delivery.message.id[2:])
            outcomes.append(RuntimeError("never") if number == 5 else None)
        return outcomes

    await bus.subscribe(subscription(max_deliveries=3), Together(take))
    await bus.subscribe(subscription("dead.>", consumer="undertaker"), dead)
    await publish(bus, *(message(n) for n in range(30)))
    await dead.has(1)
    assert max(sizes) > 1
    assert taker.ids == {f"m-{n}": 3 if n == 5 else 1 for n in range(30)}
    assert [delivery.attempt for delivery in taker.seen if delivery.message.id == "m-5"] == [1, 2, 3]
    assert [delivery.message.body for delivery in dead.seen] == [message(5).body]


async def test_a_handler_of_several_that_raises_has_taken_none(buses: Backend) -> None:
    bus = await buses.open()
    taker = Taker()

    async def take(deliveries: Sequence[Delivery]) -> list[Exception | None]:
        for delivery in deliveries:
            await taker(delivery)
        if deliveries[0].attempt == 1:
            raise RuntimeError("not yet")
        return [None] * len(deliveries)

    await bus.subscribe(subscription(), Together(take))
    await publish(bus, *(message(n) for n in range(10)))
    await taker.has(20)
    await publish(bus, message(99))
    await taker.has_id("m-99")
    assert {taker.ids[f"m-{n}"] for n in range(10)} == {2}
