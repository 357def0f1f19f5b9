"""The provider as a process, over real HTTP."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from channel_gateway.sandbox.client import BookEntry, decide_as_customer, read_book
from channel_gateway.signature import verify
from tests.channel_gateway.provider import (
    ADMIN_KEY,
    CHANNEL,
    LIVE_SIGNING,
    SHADOW_KEY,
    SHADOW_SIGNING,
    WALLET_KEY,
    Provider,
    ProviderProcess,
    Receiver,
)

SHORT = aiohttp.ClientTimeout(total=0.5)


async def booked(process: ProviderProcess) -> dict[str, BookEntry]:
    return {entry.reference: entry async for entry in read_book(process.url, ADMIN_KEY)}


@pytest.fixture(autouse=True)
async def _no_faults(provider: Provider) -> AsyncIterator[None]:
    yield
    assert await provider.faults() == 200


async def settled(provider: Provider, reference: str) -> Any:
    """The answer to a query once it is no longer pending."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        status, answer = await provider.query(reference)
        if status == 200 and answer["status"] != "pending":
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError(f"{reference} never settled")


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        ("tok_ok_1", "succeeded", ""),
        ("tok_declined", "failed", "card_declined"),
        ("tok_insufficient", "failed", "insufficient_funds"),
        ("tok_expired", "failed", "card_expired"),
        ("whatever", "failed", "token_unknown"),
    ],
)
async def test_a_token_decides_the_answer(provider: Provider, token: str, status: str, code: str) -> None:
    reference = f"answer-{token}"
    http_status, answer = await provider.charge(reference, token)
    assert http_status == 200
    assert (answer["status"], answer["failure_code"], answer["reference"]) == (status, code, reference)
    assert (await provider.query(reference))[1] == answer


async def test_the_same_key_gives_the_first_answer_and_one_entry(provider: Provider, process: ProviderProcess) -> None:
    answers = await asyncio.gather(*(provider.charge("same-1", "tok_notify_never") for _ in range(20)))
    await settled(provider, "same-1")
    answers.append(await provider.charge("same-1", "tok_notify_never"))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][1]["status"] == "pending"
    assert [e.reference async for e in read_book(process.url, ADMIN_KEY)].count("same-1") == 1


async def test_the_same_key_with_another_body_is_a_conflict(provider: Provider) -> None:
    await provider.charge("conflict-1", "tok_ok")
    assert (await provider.charge("conflict-1", "tok_ok", amount_minor=1_001))[0] == 409
    assert (await provider.post("/v1/payouts", "conflict-1", token="tok_ok"))[0] == 409
    assert (await provider.charge("conflict-1", "tok_ok", idempotency_key="another"))[0] == 409


@pytest.mark.parametrize("token", ["tok_timeout_charged", "tok_drop_charged", "tok_error_charged"])
async def test_a_charge_whose_reply_is_lost_is_found_by_query(
    provider: Provider, process: ProviderProcess, token: str
) -> None:
    reference = f"lost-{token}"
    async with aiohttp.ClientSession(timeout=SHORT) as impatient:
        lost = Provider(process.url, impatient)
        if token == "tok_error_charged":
            assert (await lost.charge(reference, token))[0] == 500
        else:
            with pytest.raises((TimeoutError, aiohttp.ClientError)):
                await lost.charge(reference, token)
    assert (await provider.query(reference))[1]["status"] == "succeeded"


@pytest.mark.parametrize("token", ["tok_timeout_uncharged", "tok_drop_uncharged"])
async def test_an_order_the_provider_forgot_is_not_found(
    provider: Provider, process: ProviderProcess, token: str
) -> None:
    reference = f"forgot-{token}"
    async with aiohttp.ClientSession(timeout=SHORT) as impatient:
        with pytest.raises((TimeoutError, aiohttp.ClientError)):
            await Provider(process.url, impatient).charge(reference, token)
    assert (await provider.query(reference))[0] == 404


@pytest.mark.parametrize(
    ("token", "status", "copies"),
    [("tok_notify_only", "succeeded", 1), ("tok_notify_declined", "failed", 1), ("tok_notify_twice", "succeeded", 2),
     ("tok_notify_late", "succeeded", 1)],
)  # fmt: skip
async def test_a_pending_order_is_notified_signed(
    provider: Provider, receiver: Receiver, token: str, status: str, copies: int
) -> None:
    _, answer = await provider.charge(f"notify-{token}", token)
    assert answer["status"] == "pending"
    ids = set()
    for _ in range(copies):
        header, body = await asyncio.wait_for(receiver.received.get(), 10)
        assert verify(header, body, {"live-1": LIVE_SIGNING.encode()}, time.time(), 300) == "live-1"
        assert f'"reference":"notify-{token}"'.encode() in body
        assert f'"status":"{status}"'.encode() in body
        ids.add(body)
    assert len(ids) == 1
    assert receiver.received.empty()


async def test_a_notification_may_come_before_the_reply(provider: Provider, receiver: Receiver) -> None:
    charge = asyncio.create_task(provider.charge("early-1", "tok_notify_before_reply"))
    _, notification = await receiver.next()
    assert not charge.done()
    assert notification["order"]["reference"] == "early-1"
    assert (await charge)[1]["status"] == "succeeded"


async def test_a_notification_is_repeated_until_it_is_taken(provider: Provider, receiver: Receiver) -> None:
    receiver.refusals = 3
    await provider.charge("repeat-1", "tok_notify_only")
    _, notification = await receiver.next()
    assert notification["order"]["reference"] == "repeat-1"
    assert receiver.refusals == 0


async def test_an_order_may_settle_without_any_notification(provider: Provider, receiver: Receiver) -> None:
    await provider.charge("never-1", "tok_notify_never")
    assert (await settled(provider, "never-1"))["status"] == "succeeded"
    assert receiver.received.empty()


async def test_refunds_stop_at_the_charge(provider: Provider, process: ProviderProcess) -> None:
    await provider.charge("charge-1", "tok_ok", amount_minor=1_000)
    refunds = await asyncio.gather(
        *(
            provider.post("/v1/refunds", f"refund-{n}", amount_minor=300, original_reference="charge-1")
            for n in range(5)
        )
    )
    statuses = sorted(answer["status"] for _, answer in refunds)
    assert statuses == ["failed", "failed", "succeeded", "succeeded", "succeeded"]
    entries = (await booked(process)).values()
    given_back = [e.amount_minor for e in entries if e.original_reference == "charge-1" and e.status == "succeeded"]
    assert sum(given_back) == 900


async def test_shadow_is_told_apart_by_its_key(
    provider: Provider, receiver: Receiver, process: ProviderProcess
) -> None:
    _, answer = await provider.charge("shadow-1", "tok_notify_only", key=SHADOW_KEY)
    assert answer["livemode"] is False
    header, body = await asyncio.wait_for(receiver.received.get(), 10)
    assert verify(header, body, {"shadow-1": SHADOW_SIGNING.encode()}, time.time(), 300) == "shadow-1"
    assert (await provider.query("shadow-1"))[0] == 404
    entry = (await booked(process))["shadow-1"]
    assert (entry.livemode, entry.account) == (False, f"{CHANNEL}_shadow")


async def test_a_fault_script_changes_what_the_token_says(provider: Provider) -> None:
    rule = {"behaviour": "declined", "token_prefix": "tok_ok_fault", "count": 1}
    assert await provider.faults(rule, {"behaviour": "unavailable", "kind": "query"}) == 200
    statuses = [(await provider.charge(f"fault-{n}", "tok_ok_fault"))[1]["status"] for n in range(2)]
    assert statuses == ["failed", "succeeded"]
    assert (await provider.query("fault-0"))[0] == 503
    assert await provider.faults({"behaviour": "nonsense"}) == 400
    assert await provider.faults(key="wrong") == 401


@pytest.mark.parametrize(
    "body",
    [{"amount_minor": 0}, {"amount_minor": -1}, {"amount_minor": 1.5}, {"amount_minor": 2**63}, {"currency": "eur"},
     {"unknown": 1}, {"token": "x" * 65}],
)  # fmt: skip
async def test_a_malformed_order_is_refused_and_not_booked(provider: Provider, body: dict[str, Any]) -> None:
    options = {"token": "tok_ok"} | body
    assert (await provider.post("/v1/charges", "malformed-1", **options))[0] == 400
    assert (await provider.query("malformed-1"))[0] == 404


async def test_a_wrong_key_is_refused(provider: Provider) -> None:
    assert (await provider.charge("key-1", "tok_ok", key="wrong"))[0] == 401
    assert (await provider.query("key-1", key="wrong"))[0] == 401


async def test_a_killed_provider_keeps_its_book_and_its_notifications(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    receiver = await Receiver().start()
    process = ProviderProcess(tmp_path, receiver.url, settle_ms=0, late_ms=1_000)
    await process.start()
    try:
        await Provider(process.url, session).charge("killed-1", "tok_notify_late")
        assert await process.end(signal.SIGKILL) == -signal.SIGKILL
        assert receiver.received.empty()
        await process.start()
        _, notification = await receiver.next()
        assert notification["order"]["reference"] == "killed-1"
        assert (await booked(process))["killed-1"].status == "succeeded"
    finally:
        await process.end()
        await receiver.stop()


async def test_a_wrong_configuration_is_named_at_start(tmp_path: Path) -> None:
    process = ProviderProcess(tmp_path, no_such_key=1)
    with pytest.raises(AssertionError):
        await process.start()
    assert await process.exit_code() == 2


async def test_authorizations_and_voids_move_no_money_and_captures_do_once(
    provider: Provider, process: ProviderProcess
) -> None:
    assert (await provider.authorize("auth-1", "tok_ok"))[1]["status"] == "succeeded"
    capture: dict[str, Any] = {"amount_minor": 400, "original_reference": "auth-1", "is_final": False}
    answers = await asyncio.gather(*(provider.post("/v1/captures", "capture-1", **capture) for _ in range(5)))
    assert all(answer == answers[0] for answer in answers)
    racing = await asyncio.gather(
        *(provider.post("/v1/captures", f"capture-2-{n}", **capture | {"is_final": True}) for n in range(4))
    )
    assert sorted(answer["failure_code"] for _, answer in racing) == [
        "",
        "auth_not_open",
        "auth_not_open",
        "auth_not_open",
    ]
    void = await provider.post("/v1/voids", "void-1", amount_minor=200, original_reference="auth-1")
    assert void[1]["status"] == "succeeded"
    entries = [e for e in (await booked(process)).values() if e.original_reference == "auth-1"]
    assert sum(e.amount_minor for e in entries if e.kind == "capture" and e.status == "succeeded") == 800


async def test_nothing_is_captured_after_a_void(provider: Provider) -> None:
    await provider.authorize("auth-2", "tok_ok")
    for n in range(2):
        assert (await provider.post("/v1/voids", f"void-2-{n}", original_reference="auth-2"))[1][
            "status"
        ] == "succeeded"
    _, answer = await provider.post("/v1/captures", "capture-3", original_reference="auth-2")
    assert (answer["status"], answer["failure_code"]) == ("failed", "auth_not_open")


async def test_a_capture_whose_reply_is_lost_is_found_by_query(provider: Provider, process: ProviderProcess) -> None:
    await provider.authorize("auth-3", "tok_ok__capture_drop_charged")
    async with aiohttp.ClientSession(timeout=SHORT) as impatient:
        with pytest.raises((TimeoutError, aiohttp.ClientError)):
            await Provider(process.url, impatient).post("/v1/captures", "capture-4", original_reference="auth-3")
    assert (await provider.query("capture-4"))[1]["status"] == "succeeded"


@pytest.mark.parametrize(("decision", "status"), [("confirm", "succeeded"), ("decline", "failed")])
async def test_a_customer_decides_now_and_is_notified_once(
    provider: Provider, receiver: Receiver, process: ProviderProcess, decision: Any, status: str
) -> None:
    reference = f"customer-{decision}"
    assert (await provider.charge(reference, "tok_customer_never"))[1]["status"] == "pending"
    await decide_as_customer(process.url, ADMIN_KEY, reference, decision)
    _, notification = await receiver.next()
    assert (notification["order"]["reference"], notification["order"]["status"]) == (reference, status)
    assert (await provider.query(reference))[1]["status"] == status
    assert (await provider.customer(reference, "confirm"))[0] == 409
    assert (await booked(process))[reference].status == status


async def test_a_confirmation_takes_the_place_of_what_would_have_been_told_later(
    provider: Provider, receiver: Receiver
) -> None:
    await provider.charge("customer-late", "tok_customer_late")
    assert (await provider.customer("customer-late", "decline"))[0] == 200
    _, notification = await receiver.next()
    assert notification["order"]["failure_code"] == "customer_declined"
    # The book would have told of this one after the late one: what comes next is it.
    await provider.charge("customer-marker", "tok_notify_late")
    assert (await receiver.next())[1]["order"]["reference"] == "customer-marker"


async def test_only_pending_charges_have_a_customer_and_only_an_admin_speaks_for_him(provider: Provider) -> None:
    assert (await provider.customer("nobody-1", "confirm"))[0] == 404
    assert (await provider.customer("nobody-1", "perhaps"))[0] == 400
    assert (await provider.customer("nobody-1", "confirm", key="wrong"))[0] == 401
    await provider.post("/v1/payouts", "payout-pending", token="tok_customer_never")
    assert (await provider.customer("payout-pending", "confirm"))[0] == 409


async def test_a_wallet_waits_for_its_customer(provider: Provider, receiver: Receiver) -> None:
    assert (await provider.charge("wallet-1", "tok_pays_more", key=WALLET_KEY))[1]["status"] == "pending"
    _, notification = await receiver.next()
    assert (notification["order"]["status"], notification["order"]["amount_minor"]) == ("succeeded", 1_500)


async def test_the_book_says_what_was_asked_for_and_what_moved(provider: Provider, process: ProviderProcess) -> None:
    await provider.charge("less-1", "tok_pays_less")
    entry = (await booked(process))["less-1"]
    assert (entry.asked_minor, entry.amount_minor) == (1_000, 500)


async def test_a_book_of_an_earlier_version_is_extended(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    with sqlite3.connect(tmp_path / "book.sqlite") as old:
        old.execute(
            """CREATE TABLE entry (sequence INTEGER PRIMARY KEY, account TEXT, livemode BOOLEAN, kind TEXT,
            reference TEXT, idempotency_key TEXT, body_hash TEXT, provider_reference TEXT, amount_minor BIGINT,
            currency TEXT, token TEXT, original_reference TEXT, outcome TEXT, failure_code TEXT, settle_at_ms BIGINT,
            created_at_ms BIGINT)"""
        )
        row = (1, CHANNEL, True, "charge", "old-1", "old-1", "x", "p1", 700, "EUR", "tok_ok", "", "succeeded", "", 1, 1)
        old.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    process = await ProviderProcess(tmp_path).start()
    try:
        refund = await Provider(process.url, session).post(
            "/v1/refunds", "refund-old", amount_minor=700, original_reference="old-1"
        )
        assert refund[1]["status"] == "succeeded"
    finally:
        await process.end()
