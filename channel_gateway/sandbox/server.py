"""The provider's HTTP side: orders, queries and statements, as its accounts see them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any

import msgspec
import structlog
from aiohttp import web

from channel_gateway.sandbox.admin import Admin, Handler
from channel_gateway.sandbox.behaviour import BEHAVIOURS, Behaviour, Kind, Operation, for_following
from channel_gateway.sandbox.book import Book
from channel_gateway.sandbox.book_operations import BookBusy, BookClosed, IdempotencyConflict, Placed
from channel_gateway.sandbox.entries import Deed, OrderBody, OrderRequest, Timing
from channel_gateway.sandbox.faults import COUNTED_MAX, Forced, in_window
from channel_gateway.sandbox.notices import told
from channel_gateway.sandbox.notifier import Notifier
from channel_gateway.sandbox.replies import answer, drop, error, unreadable
from channel_gateway.sandbox.settings import SandboxAccountSettings, SandboxSettings
from channel_gateway.sandbox.statement_formats import FORMATS
from channel_gateway.sandbox.statements import Statements
from paykit.clock import Clock

log = structlog.get_logger(__name__)

BODY_BYTES_MAX = 65_536
ORDER_BYTES_MAX = 4096
STOP_GRACE_S = 2.0
TOKEN_QUERIES = 2  # so many queries about an order are answered as its token says
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_PATHS: dict[str, Kind] = {
    "/v1/charges": "charge",
    "/v1/refunds": "refund",
    "/v1/payouts": "payout",
    "/v1/authorizations": "authorize",
    "/v1/captures": "capture",
    "/v1/voids": "void",
}

_decode_body = msgspec.json.Decoder(OrderBody).decode


class Provider:
    """The sandbox provider as a whole: book, notifier, statements and HTTP server."""

    def __init__(self, settings: SandboxSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        timing = Timing(
            settle_ms=settings.settle_ms,
            late_ms=settings.late_ms,
            hold_ms=settings.hold_ms,
            abandon_ms=settings.abandon_ms,
            later_ms=settings.later_ms,
            very_late_ms=settings.very_late_ms,
        )
        self._book = Book(settings.book_path, clock, timing)
        self._notifier = Notifier(settings, self._book, clock)
        self._statements = Statements(settings, clock)
        self._admin = Admin(settings, self._book, self._statements, clock)
        self._accounts = {a.api_key.get_secret_value(): (name, a) for name, a in settings.accounts.items()}
        self._latency = settings.latency()
        self._queried: dict[str, int] = {}
        self._stopping = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Opens the book and the port; ``url`` is known afterwards."""
        await self._book.start()
        await self._notifier.start()
        await self._statements.start()
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.add_routes(
            [
                *(web.post(path, self._guarded(self._for_account(kind, self._place))) for path, kind in _PATHS.items()),
                web.get("/v1/orders/{reference}", self._guarded(self._for_account("query", self._query))),
                web.get("/v1/statements/{date}", self._guarded(self._statement)),
                *(web.route(method, path, self._guarded(handle)) for method, path, handle in self._admin.routes()),
                web.get("/health", self._health),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=STOP_GRACE_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.host, self._settings.port, reuse_port=False)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Refuses new calls, ends the hanging ones, finishes the rest, closes the book."""
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._statements.stop()
        await self._notifier.stop()
        await self._book.stop()

    def _guarded(self, handle: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                return await handle(request)
            except web.HTTPException:
                raise
            except (BookBusy, BookClosed):
                return error(503, "overloaded")
            except Exception:
                log.exception("sandbox_request_failed", path=request.path)
                return error(500, "internal")

        return guarded

    def _account(self, request: web.Request) -> tuple[str, SandboxAccountSettings] | None:
        return self._accounts.get(request.headers.get("Authorization", "").removeprefix("Bearer "))

    async def _health(self, _request: web.Request) -> web.Response:
        return answer({"state": "serving"})

    def _for_account(
        self,
        operation: Operation,
        handle: Callable[[web.Request, Any, str, SandboxAccountSettings, Forced | None], Awaitable[web.StreamResponse]],
    ) -> Handler:
        """A call of an account: refused without its key, and in maintenance before anything of it is looked at."""

        async def called(request: web.Request) -> web.StreamResponse:
            account = self._account(request)
            if account is None:
                return error(401, "unauthorized")
            name, settings = account
            forced = in_window(self._admin.windows, operation, name, self._clock.now_ms())
            if forced is not None and forced.behaviour.reply in ("maintenance", "drop_unread"):
                reference = request.match_info.get("reference", "") or request.headers.get("Idempotency-Key", "")
                await self._note(name, reference, operation, forced.behaviour)
                if forced.behaviour.reply == "drop_unread":
                    return drop(request)
                return error(503, "maintenance", retry_after_s=forced.retry_after_s)
            return await handle(request, operation, name, settings, forced)

        return called

    async def _place(
        self, request: web.Request, kind: Kind, name: str, settings: SandboxAccountSettings, window: Forced | None
    ) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key", "")
        if _KEY.fullmatch(key) is None:
            return error(400, "idempotency_key_missing")
        unread = self._admin.faults.choose_unread(kind, name, key)
        if unread is not None:
            await self._note(name, key, kind, unread)
            return drop(request)
        try:
            content = await request.read()
            body = _decode_body(content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return error(400, "invalid_request")
        if len(content) > ORDER_BYTES_MAX:
            return error(400, "invalid_request")
        order = OrderRequest(
            kind=kind,
            account=name,
            livemode=settings.livemode,
            idempotency_key=key,
            body=body,
            customer_confirms=settings.customer_confirms,
            merchant=settings.merchant,
        )
        await self._delay(settings, kind, body.reference)
        forced = window.behaviour if window is not None else None
        forced = forced or self._admin.faults.choose(kind, name, body.token, body.reference)
        try:
            placed = await self._book.place(order, forced)
        except IdempotencyConflict:
            return error(409, "idempotency_conflict")
        if placed.earlier is not None:
            return answer(placed.earlier.answer(placed.earlier.created_at_ms))  # the first answer again
        return await self._reply(request, placed)

    async def _reply(self, request: web.Request, placed: Placed) -> web.StreamResponse:
        decision = placed.decision
        assert decision is not None
        behaviour = decision.behaviour
        cut = await self._without_answer(request, behaviour)
        if cut is not None:
            return cut
        if behaviour.reply == "after_notification":
            for notification in decision.notifications:
                delivered = self._notifier.expect(notification.id)
                try:
                    await self._wait(delivered, self._settings.hang_ms / 1000)
                finally:
                    self._notifier.forget(notification.id)
        entry = decision.entry
        assert entry is not None  # behaviours that book nothing never answer
        if behaviour.answer.is_absent:
            return error(404, "not_found")
        content = told(entry.answer(entry.created_at_ms), behaviour.answer)
        odd = await unreadable(request, behaviour.reply, content)
        return answer(content) if odd is None else odd

    async def _without_answer(self, request: web.Request, behaviour: Behaviour) -> web.StreamResponse | None:
        """What comes where the behaviour gives no answer at all; None where it does."""
        reply = behaviour.reply
        if reply == "hang":
            await self._wait(self._stopping, self._settings.hang_ms / 1000)
        if reply in ("hang", "drop", "drop_unread"):
            return drop(request)
        if reply == "error":
            return error(500, "internal")
        if reply in ("unavailable", "maintenance"):
            return error(503, reply)
        return None

    async def _query(
        self, request: web.Request, operation: Operation, name: str, settings: SandboxAccountSettings,
        window: Forced | None,
    ) -> web.StreamResponse:  # fmt: skip
        reference = request.match_info["reference"]
        await self._delay(settings, operation, reference)
        entry = await self._book.find(name, reference)
        reference = reference if entry is None else entry.reference  # whatever it was asked by
        forced = window.behaviour if window is not None else None
        forced = forced or self._admin.faults.choose("query", name, "", reference)
        if entry is not None and not entry.exists(self._clock.now_ms()):
            entry = None
        behaviour = forced or self._as_token_says(reference, entry.token if entry is not None else "")
        if behaviour.name != "ok":
            await self._note(name, reference, operation, behaviour)
            cut = await self._without_answer(request, behaviour)
            if cut is not None:
                return cut
        if entry is None or behaviour.answer.is_absent:
            return error(404, "not_found")
        content = told(entry.answer(self._clock.now_ms()), behaviour.answer)
        odd = await unreadable(request, behaviour.reply, content)
        return answer(content) if odd is None else odd

    def _as_token_says(self, reference: str, token: str) -> Behaviour:
        """How the first queries about an order go by its own token."""
        behaviour = for_following("query", token)
        if behaviour.name == "ok":
            return behaviour
        number = self._queried.pop(reference, 0)
        if number >= TOKEN_QUERIES:
            return BEHAVIOURS["ok"]
        self._queried[reference] = number + 1
        if len(self._queried) > COUNTED_MAX:
            del self._queried[next(iter(self._queried))]
        return behaviour

    async def _note(self, account: str, reference: str, operation: Operation, behaviour: Behaviour) -> None:
        await self._book.note(
            Deed(
                account=account,
                reference=reference[:64],
                operation=operation,
                behaviour=behaviour.name,
                at_ms=self._clock.now_ms(),
            )
        )

    async def _statement(self, request: web.Request) -> web.StreamResponse:
        """An account's own, by its key; any account's (``?account=``), by the admin's."""
        account = self._account(request)
        name = account[0] if account is not None else request.query.get("account", "")
        if account is None and not self._admin.is_admin(request):
            return error(401, "unauthorized")
        format_name = request.query.get("format", "csv")
        try:
            day = date.fromisoformat(request.match_info["date"])
        except ValueError:
            return error(400, "invalid_request")
        if format_name not in FORMATS or name not in self._settings.accounts:
            return error(400, "invalid_request")
        if not self._statements.is_known(day):
            return error(404, "not_found")
        written = FORMATS[format_name]
        response = web.StreamResponse(headers={"Content-Type": written.content_type})
        await response.prepare(request)
        async with contextlib.aclosing(self._statements.stream(name, day, format_name)) as chunks:
            async for chunk in chunks:
                await response.write(chunk)
        await response.write_eof()
        return response

    async def _delay(self, account: SandboxAccountSettings, operation: Operation, reference: str) -> None:
        latency = account.latency.get(operation) or account.latency.get("") or self._latency
        latency_ms = latency.of(self._settings.seed, operation, reference)
        if latency_ms:
            await asyncio.sleep(latency_ms / 1000)

    async def _wait(self, event: asyncio.Event, timeout_s: float) -> None:
        """Until ``event`` is set, the time is over, or the provider stops."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._stopping.wait())]
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
