"""What the provider can do wrong beyond losing an answer, over real HTTP."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from channel_gateway.sandbox.client import BookEntry, Deed, moved_minor, read_book, read_deeds, script
from channel_gateway.signature import SignatureInvalid, verify
from tests.channel_gateway.provider import (
    ADMIN_KEY,
    CHANNEL,
    LIVE_KEY,
    LIVE_SIGNING,
    SHADOW_SIGNING,
    Provider,
    ProviderProcess,
    Receiver,
)

LATER_MS, VERY_LATE_MS = 150, 600
KEYS = {"live-1": LIVE_SIGNING.encode()}


@pytest.fixture(scope="module")
async def process(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProviderProcess]:
    folder: Path = tmp_path_factory.mktemp("provider")
    process = await ProviderProcess(
        folder, receiver.url, settle_ms=20, late_ms=150, hang_ms=50, later_ms=LATER_MS, very_late_ms=VERY_LATE_MS
    ).start()
    yield process
    assert await process.end() == 0


@pytest.fixture(autouse=True)
async def _no_script(process: ProviderProcess) -> AsyncIterator[None]:
    yield
    await script(process.url, ADMIN_KEY, "faults", {"rules": []})
    await script(process.url, ADMIN_KEY, "windows", {"windows": []})


async def booked(process: ProviderProcess, reference: str) -> list[BookEntry]:
    return [entry async for entry in read_book(process.url, ADMIN_KEY) if entry.reference == reference]


async def done(process: ProviderProcess, reference: str) -> list[tuple[str, str]]:
    """(operation, behaviour) of what was done to calls about a reference."""
    deeds = [deed async for deed in read_deeds(process.url, ADMIN_KEY) if deed.reference == reference]
    return [(deed.operation, deed.behaviour) for deed in deeds]


async def found(provider: Provider, reference: str) -> None:
    """Waits until queries find the order."""
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        if (await provider.query(reference))[0] == 200:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{reference} never appeared")


async def lost(provider: Provider, reference: str, token: str, **body: Any) -> None:
    with pytest.raises(aiohttp.ClientError):
        await provider.charge(reference, token, **body)


async def notices(receiver: Receiver, count: int) -> list[tuple[str, bytes, dict[str, Any]]]:
    """(signature header, raw body, order) of the next notifications."""
    found = []
    for _ in range(count):
        header, body = await asyncio.wait_for(receiver.received.get(), 10)
        found.append((header, body, msgspec.json.decode(body)["order"]))
    return found


@pytest.mark.parametrize("token", ["tok_charged_later", "tok_charged_very_late_silent"])
async def test_a_charge_that_appears_later_is_not_found_and_not_in_the_book_until_then(
    provider: Provider, process: ProviderProcess, token: str
) -> None:
    reference = f"late-{token}"
    started_s = time.monotonic()
    await lost(provider, reference, token)
    if (await provider.query(reference))[0] == 404:
        assert await booked(process, reference) == [] or time.monotonic() - started_s > LATER_MS / 1000
    await found(provider, reference)
    least_ms = LATER_MS if token == "tok_charged_later" else VERY_LATE_MS
    assert (time.monotonic() - started_s) * 1000 >= least_ms
    (entry,) = await booked(process, reference)
    assert (entry.status, moved_minor(entry)) == ("succeeded", 1_000)
    # The same request again finds it, and books nothing more.
    assert (await provider.charge(reference, token))[0] == 200
    assert len(await booked(process, reference)) == 1


async def test_a_charge_may_be_told_of_when_it_appears(provider: Provider, receiver: Receiver) -> None:
    await lost(provider, "told-later", "tok_charged_later_notified")
    ((_, _, order),) = await notices(receiver, 1)
    assert (order["reference"], order["status"]) == ("told-later", "succeeded")


async def test_an_order_may_be_booked_twice_under_one_key(
    provider: Provider, process: ProviderProcess, receiver: Receiver
) -> None:
    _, answer = await provider.charge("twice-1", "tok_booked_twice")
    first, second = await booked(process, "twice-1")
    assert (first.copy_no, second.copy_no) == (0, 1)
    assert first.provider_reference == answer["provider_reference"] != second.provider_reference
    assert {order["provider_reference"] for _, _, order in await notices(receiver, 2)} == {
        first.provider_reference,
        second.provider_reference,
    }
    assert (await provider.query("twice-1"))[1]["provider_reference"] == first.provider_reference
    # Both can be given back, and not more.
    statuses = [
        (await provider.post("/v1/refunds", f"twice-back-{n}", original_reference="twice-1"))[1]["status"]
        for n in range(3)
    ]
    assert statuses == ["succeeded", "succeeded", "failed"]


async def test_answers_and_notifications_name_the_merchant(provider: Provider, receiver: Receiver) -> None:
    assert (await provider.charge("merchant-1", "tok_notify_only"))[1]["merchant"] == CHANNEL
    assert (await notices(receiver, 1))[0][2]["merchant"] == CHANNEL
    assert (await provider.query("merchant-1"))[1]["merchant"] == CHANNEL


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("wrong_amount", "amount_minor", 1_001), ("wrong_currency", "currency", "USD"),
     ("wrong_merchant", "merchant", f"other_{CHANNEL}")],
)  # fmt: skip
async def test_answers_queries_and_notifications_may_lie(
    provider: Provider, receiver: Receiver, name: str, field: str, value: Any
) -> None:
    assert (await provider.charge(f"answer-{name}", f"tok_answer_{name}"))[1][field] == value
    assert (await provider.query(f"answer-{name}"))[1][field] != value
    await provider.charge(f"query-{name}", f"tok_ok__query_answer_{name}")
    assert [(await provider.query(f"query-{name}"))[1][field] == value for _ in range(3)] == [True, True, False]
    await provider.charge(f"notice-{name}", f"tok_notify_{name}")
    ((header, body, order),) = await notices(receiver, 1)
    assert order[field] == value
    assert verify(header, body, KEYS, time.time(), 300)


async def test_queries_may_deny_a_booked_order_or_call_a_settled_one_pending(provider: Provider) -> None:
    await provider.charge("denied-1", "tok_ok__query_answer_not_found")
    assert [(await provider.query("denied-1"))[0] for _ in range(3)] == [404, 404, 200]
    await provider.charge("stale-1", "tok_ok__query_answer_pending")
    assert [(await provider.query("stale-1"))[1]["status"] for _ in range(3)] == ["pending", "pending", "succeeded"]


@pytest.mark.parametrize(
    ("token", "statuses"),
    [
        ("tok_notify_reordered", ["succeeded", "pending"]),
        ("tok_notify_failed_after_success", ["succeeded", "failed"]),
        ("tok_notify_success_after_failed", ["failed", "succeeded"]),
    ],
)
async def test_notifications_come_out_of_order_or_contradict_each_other(
    provider: Provider, receiver: Receiver, token: str, statuses: list[str]
) -> None:
    await provider.charge(f"order-{token}", token)
    assert [order["status"] for _, _, order in await notices(receiver, 2)] == statuses


@pytest.mark.parametrize(
    ("token", "first", "last"),
    [("tok_declined_then_charged", "failed", "succeeded"), ("tok_charged_then_denied", "succeeded", "failed")],
)
async def test_what_was_said_at_first_may_turn_out_otherwise(
    provider: Provider, process: ProviderProcess, receiver: Receiver, token: str, first: str, last: str
) -> None:
    _, answer = await provider.charge(f"turns-{token}", token)
    assert answer["status"] == first
    ((_, _, order),) = await notices(receiver, 1)
    assert order["status"] == last
    assert (await provider.query(f"turns-{token}"))[1]["status"] == last
    (entry,) = await booked(process, f"turns-{token}")
    assert entry.status == last


@pytest.mark.parametrize("name", ["key", "stale", "changed", "account"])
async def test_a_forged_notification_claims_a_success_and_no_key_of_the_account_signed_it(
    provider: Provider, receiver: Receiver, name: str
) -> None:
    await provider.charge(f"forged-{name}", f"tok_forged_{name}")
    forged, true = await notices(receiver, 2)
    assert [order["status"] for _, _, order in (forged, true)] == ["succeeded", "failed"]
    with pytest.raises(SignatureInvalid):
        verify(forged[0], forged[1], KEYS, time.time(), 300)
    assert verify(true[0], true[1], KEYS, time.time(), 300)
    if name == "account":
        assert verify(forged[0], forged[1], {"shadow-1": SHADOW_SIGNING.encode()}, time.time(), 300) == "shadow-1"


async def test_a_forged_notification_is_sent_once_though_it_is_refused(provider: Provider, receiver: Receiver) -> None:
    receiver.refusals = 1
    await provider.charge("forged-once", "tok_forged_key")
    ((_, _, order),) = await notices(receiver, 1)
    assert order["status"] == "failed"
    assert receiver.received.empty()


async def test_a_notification_may_name_an_order_that_nobody_has(provider: Provider, receiver: Receiver) -> None:
    await provider.charge("chn_unknown_order_0001", "tok_notify_unknown_order")
    references = [order["reference"] for _, _, order in await notices(receiver, 2)]
    assert sorted(reference == "chn_unknown_order_0001" for reference in references) == [False, True]


async def test_maintenance_refuses_all_or_some_operations_and_says_when_to_come_again(
    provider: Provider, process: ProviderProcess, session: aiohttp.ClientSession
) -> None:
    headers = {"Authorization": f"Bearer {LIVE_KEY}", "Idempotency-Key": "closed-1"}
    window = {"operations": ["charge"], "until_ms": int(time.time() * 1000) + 30_000}
    await script(process.url, ADMIN_KEY, "windows", {"windows": [window]})
    async with session.post(f"{process.url}/v1/charges", data=b"{}", headers=headers) as answer:
        assert answer.status == 503
        assert 20 < int(answer.headers["Retry-After"]) <= 30
    assert (await provider.charge("closed-1", "tok_ok"))[1]["error"]["code"] == "maintenance"
    assert (await provider.query("closed-1"))[1]["error"]["code"] == "not_found"
    assert await done(process, "closed-1") == [("charge", "maintenance")] * 2
    await script(process.url, ADMIN_KEY, "windows", {"windows": [{"account": "another"}]})
    assert (await provider.charge("closed-1", "tok_ok"))[0] == 200
    with pytest.raises(aiohttp.ClientResponseError):
        await script(process.url, ADMIN_KEY, "windows", {"windows": [{"behaviour": "nonsense"}]})


async def test_a_storm_of_errors_may_book_what_it_answers_with_an_error(
    provider: Provider, process: ProviderProcess
) -> None:
    await script(process.url, ADMIN_KEY, "windows", {"windows": [{"behaviour": "error_charged"}]})
    assert [(await provider.charge(f"storm-{n}", "tok_ok"))[0] for n in range(5)] == [500] * 5
    assert (await provider.query("storm-0"))[0] == 500
    await script(process.url, ADMIN_KEY, "windows", {"windows": []})
    assert [(await provider.query(f"storm-{n}"))[1]["status"] for n in range(5)] == ["succeeded"] * 5


async def test_a_connection_may_be_reset_before_the_order_is_read(provider: Provider, process: ProviderProcess) -> None:
    await script(process.url, ADMIN_KEY, "faults", {"rules": [{"behaviour": "reset_unread", "count": 1}]})
    await lost(provider, "unread-1", "tok_ok")
    assert await booked(process, "unread-1") == []
    assert await done(process, "unread-1") == [("charge", "reset_unread")]
    assert (await provider.charge("unread-1", "tok_ok"))[1]["status"] == "succeeded"


async def test_a_latency_is_kept_for_each_operation(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    process = ProviderProcess(tmp_path)
    process.account(CHANNEL)["latency"] = {"": {"low_ms": 5}, "charge": {"low_ms": 250}}
    await process.start()
    try:
        provider = Provider(process.url, session)
        started_s = time.monotonic()
        await provider.charge("slow-1", "tok_ok")
        charged_s = time.monotonic() - started_s
        await provider.query("slow-1")
        assert charged_s > 0.25 > time.monotonic() - started_s - charged_s
    finally:
        await process.end()


REFERENCES = [f"seeded-{n}" for n in range(120)]
RULES: list[dict[str, Any]] = [
    {"behaviour": name, "kind": "charge", "probability": 0.1}
    for name in ("declined", "error_charged", "answer_wrong_amount", "booked_twice", "notify_only", "garbage")
] + [{"behaviour": "unavailable", "kind": "query", "probability": 0.3}]


async def _deeds(folder: Path, session: aiohttp.ClientSession, seed: int, references: list[str]) -> list[Deed]:
    process = await ProviderProcess(folder, seed=seed, settle_ms=0).start()
    try:
        await script(process.url, ADMIN_KEY, "faults", {"rules": RULES})
        headers = {"Authorization": f"Bearer {LIVE_KEY}"}

        async def one(reference: str) -> None:
            content = {"reference": reference, "amount_minor": 500, "currency": "EUR", "token": "tok_ok"}
            keyed = headers | {"Idempotency-Key": reference}
            async with session.post(f"{process.url}/v1/charges", json=content, headers=keyed) as answer:
                await answer.read()
            for _ in range(2):
                async with session.get(f"{process.url}/v1/orders/{reference}", headers=headers) as answer:
                    await answer.read()

        await asyncio.gather(*(one(reference) for reference in references))
        return [deed async for deed in read_deeds(process.url, ADMIN_KEY)]
    finally:
        await process.end()


async def test_the_same_seed_and_references_give_the_same_faults_in_whatever_order_calls_come(
    tmp_path_factory: pytest.TempPathFactory, session: aiohttp.ClientSession
) -> None:
    first = await _deeds(tmp_path_factory.mktemp("first"), session, 1, REFERENCES)
    again = await _deeds(tmp_path_factory.mktemp("again"), session, 1, REFERENCES[::-1])
    other = await _deeds(tmp_path_factory.mktemp("other"), session, 2, REFERENCES)

    def told(deeds: list[Deed]) -> Counter[tuple[str, str, str]]:
        return Counter((deed.reference, deed.operation, deed.behaviour) for deed in deeds)

    assert told(first) == told(again) != told(other)
    assert {deed.behaviour for deed in first} == {rule["behaviour"] for rule in RULES}
