"""The provider's HTTP side: orders, queries, the book for whoever checks it, the fault script and the customers."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any, Literal

import msgspec
import structlog
from aiohttp import web

from channel_gateway.sandbox.behaviour import BEHAVIOURS, FaultRule, FaultScript, Kind, roll
from channel_gateway.sandbox.book import Book, BookBusy, BookClosed, IdempotencyConflict, NotPending, Placed
from channel_gateway.sandbox.entries import OrderBody, OrderRequest, Timing
from channel_gateway.sandbox.notifier import Notifier
from channel_gateway.sandbox.settings import SandboxAccountSettings, SandboxSettings
from channel_gateway.sandbox.statement import StatementScript
from channel_gateway.sandbox.statement_formats import FORMATS
from channel_gateway.sandbox.statements import Statements
from paykit.clock import Clock

log = structlog.get_logger(__name__)

BODY_BYTES_MAX = 4096
PAGE_MAX = 1000
STOP_GRACE_S = 2.0
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_JSON = "application/json"

_PATHS: dict[str, Kind] = {
    "/v1/charges": "charge",
    "/v1/refunds": "refund",
    "/v1/payouts": "payout",
    "/v1/authorizations": "authorize",
    "/v1/captures": "capture",
    "/v1/voids": "void",
}

_encode = msgspec.json.Encoder().encode
_decode_body = msgspec.json.Decoder(OrderBody).decode


class FaultsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/faults: the whole script, replacing the one before."""

    rules: list[FaultRule]


class CustomerBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/customers: what the customer of a pending order does now."""

    reference: str
    decision: Literal["confirm", "decline"]


class Provider:
    """The sandbox provider as a whole: book, notifier and HTTP server."""

    def __init__(self, settings: SandboxSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        timing = Timing(
            settle_ms=settings.settle_ms,
            late_ms=settings.late_ms,
            hold_ms=settings.hold_ms,
            abandon_ms=settings.abandon_ms,
        )
        self._book = Book(settings.book_path, clock, timing)
        self._notifier = Notifier(settings, self._book, clock)
        self._statements = Statements(settings, clock)
        self._accounts = {a.api_key.get_secret_value(): (name, a) for name, a in settings.accounts.items()}
        self._admin_key = settings.admin_key.get_secret_value()
        self._rates = [
            FaultRule(behaviour=name, token_prefix="tok_ok", probability=rate)
            for name, rate in settings.fault_rates.items()
        ]
        self._faults = FaultScript(self._rates, settings.seed)
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
                *(web.post(path, self._guarded(self._place_as(kind))) for path, kind in _PATHS.items()),
                web.get("/v1/orders/{reference}", self._guarded(self._query)),
                web.get("/v1/book", self._guarded(self._dump)),
                web.get("/v1/statements/{date}", self._guarded(self._statement)),
                web.get("/v1/statement-script", self._guarded(self._get_statement_script)),
                web.post("/v1/statement-script", self._guarded(self._set_statement_script)),
                web.post("/v1/customers", self._guarded(self._decide_as_customer)),
                web.post("/v1/faults", self._guarded(self._set_faults)),
                web.get("/v1/faults", self._guarded(self._get_faults)),
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

    def _guarded(
        self, handle: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                return await handle(request)
            except web.HTTPException:
                raise
            except (BookBusy, BookClosed):
                return _error(503, "overloaded")
            except Exception:
                log.exception("sandbox_request_failed", path=request.path)
                return _error(500, "internal")

        return guarded

    def _account(self, request: web.Request) -> tuple[str, SandboxAccountSettings] | None:
        return self._accounts.get(request.headers.get("Authorization", "").removeprefix("Bearer "))

    def _is_admin(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self._admin_key.encode())

    async def _health(self, _request: web.Request) -> web.Response:
        return _answer({"state": "serving"})

    def _place_as(self, kind: Kind) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def place(request: web.Request) -> web.StreamResponse:
            account = self._account(request)
            if account is None:
                return _error(401, "unauthorized")
            key = request.headers.get("Idempotency-Key", "")
            if _KEY.fullmatch(key) is None:
                return _error(400, "idempotency_key_missing")
            try:
                body = _decode_body(await request.read())
            except (msgspec.DecodeError, UnicodeDecodeError):
                return _error(400, "invalid_request")
            name, settings = account
            order = OrderRequest(
                kind=kind,
                account=name,
                livemode=settings.livemode,
                idempotency_key=key,
                body=body,
                customer_confirms=settings.customer_confirms,
            )
            return await self._placed(request, order)

        return place

    async def _placed(self, request: web.Request, order: OrderRequest) -> web.StreamResponse:
        await self._delay(order.body.reference)
        forced = self._faults.choose(order.kind, order.account, order.body.token, order.body.reference)
        try:
            placed = await self._book.place(order, forced)
        except IdempotencyConflict:
            return _error(409, "idempotency_conflict")
        if placed.earlier is not None:
            return _answer(placed.earlier.answer(placed.earlier.created_at_ms))  # the first answer again
        return await self._reply(request, placed)

    async def _reply(self, request: web.Request, placed: Placed) -> web.StreamResponse:
        decision = placed.decision
        assert decision is not None
        reply = decision.behaviour.reply
        if reply == "unavailable":
            return _error(503, "unavailable")
        if reply == "error":
            return _error(500, "internal")
        if reply == "hang":
            await self._wait(self._stopping, self._settings.hang_ms / 1000)
        if reply in ("hang", "drop"):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()  # goes nowhere
        if reply == "after_notification":
            for notification in decision.notifications:
                delivered = self._notifier.expect(notification.id)
                try:
                    await self._wait(delivered, self._settings.hang_ms / 1000)
                finally:
                    self._notifier.forget(notification.id)
        assert decision.entry is not None  # behaviours that book nothing never answer
        return _answer(decision.entry.answer(decision.entry.created_at_ms))

    async def _query(self, request: web.Request) -> web.StreamResponse:
        account = self._account(request)
        if account is None:
            return _error(401, "unauthorized")
        reference = request.match_info["reference"]
        await self._delay(reference)
        forced = self._faults.choose("query", account[0], "", reference)
        if forced is not None and forced.reply != "answer":
            if forced.reply == "hang":
                await self._wait(self._stopping, self._settings.hang_ms / 1000)
            return _error(503, "unavailable")
        entry = await self._book.find(account[0], reference)
        return _error(404, "not_found") if entry is None else _answer(entry.answer(self._clock.now_ms()))

    async def _dump(self, request: web.Request) -> web.StreamResponse:
        if not self._is_admin(request):
            return _error(401, "unauthorized")
        try:
            after = int(request.query.get("after", "0"))
            page_size = int(request.query.get("page_size", str(PAGE_MAX)))
        except ValueError:
            return _error(400, "invalid_request")
        if not (0 <= after < 2**63 and 1 <= page_size <= PAGE_MAX):
            return _error(400, "invalid_request")
        page = await self._book.page(after, page_size)
        now_ms = self._clock.now_ms()
        entries = [
            msgspec.structs.asdict(entry.answer(now_ms))
            | {
                "sequence": sequence,
                "account": entry.account,
                "original_reference": entry.original_reference,
                "asked_minor": entry.amount_minor,
                "created_at_ms": entry.created_at_ms,
            }
            for sequence, entry in page
        ]
        return _answer({"entries": entries, "next_after": page[-1][0] if len(page) == page_size else None})

    async def _statement(self, request: web.Request) -> web.StreamResponse:
        """An account's own, by its key; any account's (``?account=``), by the admin's."""
        account = self._account(request)
        name = account[0] if account is not None else request.query.get("account", "")
        if account is None and not self._is_admin(request):
            return _error(401, "unauthorized")
        format_name = request.query.get("format", "csv")
        try:
            day = date.fromisoformat(request.match_info["date"])
        except ValueError:
            return _error(400, "invalid_request")
        if format_name not in FORMATS or name not in self._settings.accounts:
            return _error(400, "invalid_request")
        if not self._statements.is_known(day):
            return _error(404, "not_found")
        written = FORMATS[format_name]
        response = web.StreamResponse(headers={"Content-Type": written.content_type})
        await response.prepare(request)
        async with contextlib.aclosing(self._statements.stream(name, day, format_name)) as chunks:
            async for chunk in chunks:
                await response.write(chunk)
        await response.write_eof()
        return response

    async def _set_statement_script(self, request: web.Request) -> web.StreamResponse:
        if not self._is_admin(request):
            return _error(401, "unauthorized")
        try:
            self._statements.script = msgspec.json.decode(await request.read(), type=StatementScript)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _error(400, "invalid_request", str(error))
        return _answer(self._statements.script)

    async def _get_statement_script(self, request: web.Request) -> web.StreamResponse:
        return _answer(self._statements.script) if self._is_admin(request) else _error(401, "unauthorized")

    async def _decide_as_customer(self, request: web.Request) -> web.StreamResponse:
        if not self._is_admin(request):
            return _error(401, "unauthorized")
        try:
            body = msgspec.json.decode(await request.read(), type=CustomerBody)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _error(400, "invalid_request", str(error))
        try:
            entry = await self._book.decide_as_customer(body.reference, body.decision == "confirm")
        except NotPending:
            return _error(409, "not_pending")
        return _error(404, "not_found") if entry is None else _answer(entry.answer(entry.settle_at_ms))

    async def _set_faults(self, request: web.Request) -> web.StreamResponse:
        if not self._is_admin(request):
            return _error(401, "unauthorized")
        try:
            body = msgspec.json.decode(await request.read(), type=FaultsBody)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _error(400, "invalid_request", str(error))
        if len(body.rules) > FaultScript.RULES_MAX:
            return _error(400, "invalid_request", "too many rules")
        self._faults = FaultScript(body.rules + self._rates, self._settings.seed)
        return await self._get_faults(request)

    async def _get_faults(self, request: web.Request) -> web.StreamResponse:
        if not self._is_admin(request):
            return _error(401, "unauthorized")
        return _answer({"rules": self._faults.rules, "behaviours": sorted(BEHAVIOURS)})

    async def _delay(self, reference: str) -> None:
        latency_ms: float = self._settings.latency_ms
        if self._settings.latency_jitter_ms:
            latency_ms += self._settings.latency_jitter_ms * roll(self._settings.seed, "latency", reference)
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


def _answer(content: Any) -> web.Response:
    return web.Response(body=_encode(content), content_type=_JSON)


def _error(status: int, code: str, message: str = "") -> web.Response:
    return web.Response(body=_encode({"error": {"code": code, "message": message}}), content_type=_JSON, status=status)
