"""The provider's book: one SQLite file, written by one thread, many orders to a transaction.

Callers on the event loop hand operations over and await them; the thread takes all that wait, carries them out in one
transaction and answers them together. Orders are added, and pending ones decided by their customers: each in one
transaction, so a killed provider finds its book as it was.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection

from channel_gateway.sandbox.behaviour import Behaviour
from channel_gateway.sandbox.book_file import (
    as_deed,
    as_entry,
    by_provider_reference,
    by_reference,
    load_entries,
    open_book,
    write,
    write_deeds,
    write_notifications,
)
from channel_gateway.sandbox.book_operations import (
    Asked,
    BookBusy,
    BookClosed,
    CustomerDecision,
    Deeds,
    Due,
    Find,
    IdempotencyConflict,
    Mark,
    NotPending,
    Page,
    Place,
    Placed,
)
from channel_gateway.sandbox.book_tables import (
    DEEDS,
    DUE,
    FIND,
    FIND_KEY,
    FOLLOWERS,
    FORGET,
    MARK,
    PAGE,
    SETTLE,
)
from channel_gateway.sandbox.decision import decide, decide_as_customer
from channel_gateway.sandbox.entries import (
    FOLLOWING,
    UNUSED,
    Decision,
    Deed,
    Entry,
    Notification,
    OrderRequest,
    Timing,
    Used,
)
from channel_gateway.sandbox.notices import notification_prefix
from paykit.clock import Clock

log = structlog.get_logger(__name__)

BATCH_MAX = 256
WAITING_MAX = 10_000


_Waiting = tuple[Asked, "asyncio.Future[Any]"]


class Book:
    """The book. ``start`` opens or creates the file; ``stop`` finishes what waits and closes it."""

    def __init__(self, path: Path, clock: Clock, timing: Timing) -> None:
        self._path = path
        self._clock = clock
        self._timing = timing
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Opens the file and starts the thread."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[Any] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="sandbox-book", daemon=True)
        self._thread.start()
        await opened

    async def stop(self) -> None:
        """Carries out what waits, then closes the file."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            self._queue.put(None)
            await asyncio.to_thread(thread.join)

    async def place(self, request: OrderRequest, forced: Behaviour | None) -> Placed:
        """Books an order, or finds it booked; IdempotencyConflict, BookBusy."""
        placed: Placed = await self._submit(Place(request, forced))
        return placed

    async def find(self, account: str, reference: str) -> Entry | None:
        """The entry that an account, or the provider, calls ``reference``, whether it exists yet or not."""
        entry: Entry | None = await self._submit(Find(account, reference))
        return entry

    async def decide_as_customer(self, reference: str, confirms: bool) -> Entry | None:
        """Settles a pending charge or authorisation now; its notification is due at once. None: no such order;
        NotPending."""
        entry: Entry | None = await self._submit(CustomerDecision(reference, confirms))
        return entry

    async def due(self, now_ms: int, page_size: int) -> list[Notification]:
        """Notifications that wait and are due."""
        notifications: list[Notification] = await self._submit(Due(now_ms, page_size))
        return notifications

    async def mark(self, mark: Mark) -> None:
        """Records how a delivery went."""
        await self._submit(mark)

    async def page(self, after: int, page_size: int) -> list[tuple[int, Entry]]:
        """Entries with their sequence numbers, in order of booking."""
        entries: list[tuple[int, Entry]] = await self._submit(Page(after, page_size, self._clock.now_ms()))
        return entries

    async def note(self, deed: Deed) -> None:
        """Records what was done to a call that asked nothing of the book."""
        await self._submit(deed)

    async def deeds(self, after: int, page_size: int) -> list[tuple[int, Deed]]:
        """Deeds with their sequence numbers, in the order they were done."""
        deeds: list[tuple[int, Deed]] = await self._submit(Deeds(after, page_size))
        return deeds

    def _submit(self, operation: Asked) -> asyncio.Future[Any]:
        if self._thread is None or self._loop is None:
            raise BookClosed
        if self._queue.qsize() >= WAITING_MAX:
            raise BookBusy
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put((operation, future))
        return future

    # Below: on the book's own thread.

    def _run(self, opened: asyncio.Future[Any]) -> None:
        assert self._loop is not None
        try:
            connection = open_book(self._path)
        except Exception as error:
            self._loop.call_soon_threadsafe(_resolve, [(opened, error)])
            return
        self._loop.call_soon_threadsafe(_resolve, [(opened, None)])
        closing = False
        while not closing:
            batch: list[_Waiting] = []
            item = self._queue.get()
            while True:
                if item is None:
                    closing = True
                    break
                batch.append(item)
                if len(batch) >= BATCH_MAX or self._queue.empty():
                    break
                item = self._queue.get_nowait()
            if batch:
                results = self._carry_out(connection, [operation for operation, _ in batch])
                answers = [(future, result) for (_, future), result in zip(batch, results, strict=True)]
                self._loop.call_soon_threadsafe(_resolve, answers)
        connection.close()

    def _carry_out(self, connection: Connection, operations: Sequence[Asked]) -> list[Any]:
        results: list[Any] = [None] * len(operations)
        try:
            with connection.begin():
                places = [(i, op) for i, op in enumerate(operations) if isinstance(op, Place)]
                if places:
                    for (index, _), placed in zip(
                        places, self._place(connection, [op for _, op in places]), strict=True
                    ):
                        results[index] = placed
                marks = [op for op in operations if isinstance(op, Mark)]
                if marks:
                    connection.execute(
                        MARK,
                        [
                            {"key": m.id, "new_state": m.state, "due": m.due_at_ms, "attempts": m.attempt_count}
                            for m in marks
                        ],
                    )
                write_deeds(connection, [op for op in operations if isinstance(op, Deed)])
                finds = {op.reference for op in operations if isinstance(op, Find)}
                found = by_provider_reference(connection, finds) | by_reference(connection, finds)
                for index, operation in enumerate(operations):
                    if isinstance(operation, Find):
                        results[index] = found.get((operation.account, operation.reference))
                    elif isinstance(operation, CustomerDecision):
                        results[index] = self._decide_as_customer(connection, operation)
                    elif isinstance(operation, Due):
                        rows = connection.execute(DUE, msgspec.structs.asdict(operation))
                        results[index] = [Notification(**row) for row in rows.mappings()]
                    elif isinstance(operation, Page):
                        pages = connection.execute(PAGE, msgspec.structs.asdict(operation))
                        results[index] = [(row[0], as_entry(row[1:])) for row in pages]
                    elif isinstance(operation, Deeds):
                        deeds = connection.execute(DEEDS, msgspec.structs.asdict(operation)).mappings()
                        results[index] = [(row["sequence"], as_deed(row)) for row in deeds]
        except Exception as error:
            log.exception("sandbox_book_failed", operations=len(operations))
            return [error] * len(operations)
        return results

    def _place(self, connection: Connection, places: Sequence[Place]) -> list[Placed | Exception]:
        now_ms = self._clock.now_ms()
        requests = [place.request for place in places]
        by_key = {
            (entry.account, entry.idempotency_key): entry
            for entry in load_entries(connection, FIND_KEY, {r.idempotency_key for r in requests})
        }
        originals = {r.body.original_reference for r in requests if r.kind in FOLLOWING}
        known = by_reference(connection, {r.body.reference for r in requests} | originals)
        used: dict[tuple[str, str], Used] = {}
        for entry in load_entries(connection, FOLLOWERS, originals):
            _note(used, entry)
        results: list[Placed | Exception] = []
        decisions: list[Decision] = []
        deeds: list[Deed] = []
        for place in places:
            request, body = place.request, place.request.body
            earlier = by_key.get((request.account, request.idempotency_key)) or known.get(
                (request.account, body.reference)
            )
            if earlier is not None:
                same = earlier.body_hash == request.body_hash and earlier.idempotency_key == request.idempotency_key
                results.append(Placed(None, earlier) if same else IdempotencyConflict())
                continue
            original_key = (request.account, body.original_reference)
            decision = decide(
                request,
                place.forced,
                known.get(original_key),
                used.get(original_key, UNUSED),
                now_ms,
                self._timing,
            )
            results.append(Placed(decision, None))
            if decision.entry is not None:
                decisions.append(decision)
                by_key[request.account, request.idempotency_key] = decision.entry
                known[request.account, body.reference] = decision.entry
                _note(used, decision.entry)
            if decision.behaviour.name != "ok":
                deeds.append(
                    Deed(
                        account=request.account,
                        reference=body.reference,
                        operation=request.kind,
                        behaviour=decision.behaviour.name,
                        at_ms=now_ms,
                    )
                )
        write(connection, decisions)
        write_deeds(connection, deeds)
        return results

    def _decide_as_customer(self, connection: Connection, decision: CustomerDecision) -> Entry | NotPending | None:
        found = load_entries(connection, FIND, {decision.reference})
        if not found:
            return None
        (entry, *_) = found  # references are unique per account, and those of two modes never the same
        decided = None
        if entry.kind in ("charge", "authorize"):
            decided = decide_as_customer(entry, decision.confirms, self._clock.now_ms())
        if decided is None:
            return NotPending()
        settled, notification = decided
        connection.execute(
            SETTLE,
            {
                "of_account": settled.account,
                "of_reference": settled.reference,
                "new_outcome": settled.outcome,
                "new_failure_code": settled.failure_code,
                "new_settle_at_ms": settled.settle_at_ms,
            },
        )
        # What would have been told when it settled by itself is not true any more.
        prefix = notification_prefix(settled)
        connection.execute(FORGET, {"first": prefix, "beyond": prefix + "~"})
        write_notifications(connection, [notification])
        return settled


def _note(used: dict[tuple[str, str], Used], entry: Entry) -> None:
    key = entry.account, entry.original_reference
    used[key] = used.get(key, UNUSED).with_entry(entry)


def _resolve(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in answers:
        if future.done():  # the caller went away
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
