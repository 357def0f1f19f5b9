"""Durable calls that fail as nothing should: somebody is told, once, and they are made again all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from paykit.context import BusinessContext
from paykit.errors import DeadlineExceeded, MeshError, ResourceExhausted, Unavailable
from paykit.events.calls import DurableCall
from paykit.events.dead_letters import OpenDeadLetter
from paykit.store.store import Store
from paykit.store.system import Outbox
from tests.paykit.events.relaying import Callee, StartRelay, begin, fails, is_acknowledged, tickets
from tests.paykit.events.waits import METHOD, text


@pytest.mark.parametrize("cause", ["callee", "hook"])
async def test_a_call_that_keeps_failing_gets_one_ticket_and_is_made_again(
    store: Store, start_relay: StartRelay, cause: str
) -> None:
    replies: list[str] = []

    async def on_reply(context: BusinessContext, row: Outbox, response: StringValue) -> None:
        replies.append(response.value)
        if cause == "hook" and len(replies) <= 25:
            raise ZeroDivisionError("a bug")

    callee = Callee(fails(25, MeshError("a bug")) if cause == "callee" else None)
    start_relay(store, callee, DurableCall(METHOD, on_reply=on_reply))
    committed: list[Outbox] = []
    store.subscribe(lambda mode, shard, rows: committed.extend(rows))
    await begin(store, calls=((METHOD, text("ask")),))
    await is_acknowledged(store)
    assert len(callee.asked) == 26
    (ticket,) = await tickets(store)
    assert (ticket.state, ticket.consumer, ticket.destination) == ("OPEN", METHOD, METHOD)
    assert (ticket.message_id, ticket.body) == (committed[0].id, committed[0].body)
    assert "a bug" in ticket.error


async def test_a_ticket_that_cannot_be_opened_is_asked_for_again(
    store: Store, start_relay: StartRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, refused = store.run, asyncio.Event()

    async def flaky(command: Any) -> Any:
        if isinstance(command, OpenDeadLetter) and not refused.is_set():
            refused.set()
            raise Unavailable("the shard is away")
        return await run(command)

    monkeypatch.setattr(store, "run", flaky)
    start_relay(store, Callee(fails(25, MeshError("a bug"))))
    await begin(store, calls=((METHOD, text("ask")),))
    await is_acknowledged(store)
    assert refused.is_set()
    assert len(await tickets(store)) == 1


@pytest.mark.parametrize("error", [Unavailable("away"), ResourceExhausted("full"), DeadlineExceeded("late")])
async def test_an_outage_however_long_gets_no_ticket(store: Store, start_relay: StartRelay, error: MeshError) -> None:
    callee = Callee(fails(25, error))
    start_relay(store, callee)
    await begin(store, calls=((METHOD, text("ask")),))
    await is_acknowledged(store)
    assert len(callee.asked) == 26
    assert await tickets(store) == []
