"""Tickets of messages that nobody here has named."""

from __future__ import annotations

from paykit.errors import FailedPrecondition
from paykit.events.dead_letters import OpenDeadLetter
from paykit.store.store import Store
from tests.paykit.events.relaying import tickets
from tests.paykit.events.waits import new_context


async def test_a_foreign_message_of_any_name_gets_one_ticket(store: Store) -> None:
    context = new_context(5)
    for _ in range(2):
        ticket = OpenDeadLetter(
            context,
            5,
            consumer="verbraucher-ü" * 20,
            destination="thema." + "\N{SNOWMAN}" * 200,
            message_id="\udcff\N{SNOWMAN}" * 100,
            body=b"\xff",
            error=FailedPrecondition("\udcff" + "\N{SNOWMAN}" * 300),
        )
        await store.run(ticket)
    (row,) = await tickets(store)
    assert row.consumer == ("verbraucher-?" * 20)[:160]
    assert row.destination == "thema." + "?" * 154
    assert row.message_id == "?" * 32
    assert row.error == ("FailedPrecondition: ?" + "\N{SNOWMAN}" * 300)[:255]
    assert row.body == b"\xff"


async def test_messages_that_differ_beyond_what_is_stored_get_a_ticket_each(store: Store) -> None:
    for end in "ab":
        ids = {"consumer": "c", "destination": "d", "message_id": "m" * 100 + end}
        await store.run(OpenDeadLetter(new_context(5), 5, **ids, body=b"", error=FailedPrecondition("no")))
    assert {row.message_id for row in await tickets(store)} == {"m" * 32}
    assert len(await tickets(store)) == 2
