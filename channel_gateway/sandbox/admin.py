"""The provider's side door, by the admin's key: its book and what it did to calls, its scripts, its customers."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import msgspec
from aiohttp import web

from channel_gateway.sandbox.behaviour import BEHAVIOURS
from channel_gateway.sandbox.book import Book
from channel_gateway.sandbox.book_operations import NotPending
from channel_gateway.sandbox.faults import FaultRule, FaultScript, Window
from channel_gateway.sandbox.replies import answer, error
from channel_gateway.sandbox.settings import SandboxSettings
from channel_gateway.sandbox.statement import StatementScript
from channel_gateway.sandbox.statements import Statements
from paykit.clock import Clock

PAGE_MAX = 1000
WINDOWS_MAX = 100

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")


class FaultsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/faults: the whole script, replacing the one before."""

    rules: list[FaultRule]


class WindowsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/windows: all windows, replacing those before; none ends the maintenance."""

    windows: list[Window]


class CustomerBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/customers: what the customer of a pending order does now."""

    reference: str
    decision: Literal["confirm", "decline"]


class Admin:
    """The side door. ``faults`` and ``windows`` are what is in force."""

    def __init__(self, settings: SandboxSettings, book: Book, statements: Statements, clock: Clock) -> None:
        self._settings = settings
        self._book = book
        self._statements = statements
        self._clock = clock
        self._key = settings.admin_key.get_secret_value()
        # The settings' own rules stay in force behind whatever script comes.
        self._own_rules = [
            *settings.fault_rules,
            *(
                FaultRule(behaviour=name, token_prefix="tok_ok", probability=rate)
                for name, rate in settings.fault_rates.items()
            ),
        ]
        self.faults = FaultScript(self._own_rules, settings.seed)
        self.windows = list(settings.windows)

    def routes(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler) of each."""
        found = [
            ("GET", "/v1/book", self._dump),
            ("GET", "/v1/deeds", self._deeds),
            ("POST", "/v1/customers", self._decide_as_customer),
            ("GET", "/v1/faults", self._get_faults),
            ("POST", "/v1/faults", self._set_faults),
            ("GET", "/v1/windows", self._get_windows),
            ("POST", "/v1/windows", self._set_windows),
            ("GET", "/v1/statement-script", self._get_statement_script),
            ("POST", "/v1/statement-script", self._set_statement_script),
        ]
        return [(method, path, self._for_admin(handle)) for method, path, handle in found]

    def is_admin(self, request: web.Request) -> bool:
        """Whether the request carries the admin's key."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self._key.encode())

    def _for_admin(self, handle: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self.is_admin(request):
                return error(401, "unauthorized")
            try:
                return await handle(request)
            except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as problem:
                return error(400, "invalid_request", str(problem))

        return guarded

    async def _dump(self, request: web.Request) -> web.StreamResponse:
        after, page_size = _page_of(request)
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
                "settle_at_ms": entry.settle_at_ms,
                "behaviour": entry.behaviour,
                "copy_no": entry.copy_no,
            }
            for sequence, entry in page
        ]
        return answer({"entries": entries, "next_after": page[-1][0] if len(page) == page_size else None})

    async def _deeds(self, request: web.Request) -> web.StreamResponse:
        after, page_size = _page_of(request)
        page = await self._book.deeds(after, page_size)
        deeds = [{"sequence": sequence} | msgspec.structs.asdict(deed) for sequence, deed in page]
        return answer({"deeds": deeds, "next_after": page[-1][0] if len(page) == page_size else None})

    async def _decide_as_customer(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, CustomerBody)
        try:
            entry = await self._book.decide_as_customer(body.reference, body.decision == "confirm")
        except NotPending:
            return error(409, "not_pending")
        return error(404, "not_found") if entry is None else answer(entry.answer(entry.settle_at_ms))

    async def _set_faults(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, FaultsBody)
        if len(body.rules) > FaultScript.RULES_MAX:
            raise ValueError("too many rules")
        self.faults = FaultScript(body.rules + self._own_rules, self._settings.seed)
        return await self._get_faults(request)

    async def _get_faults(self, _request: web.Request) -> web.StreamResponse:
        return answer({"rules": self.faults.rules, "behaviours": sorted(BEHAVIOURS)})

    async def _set_windows(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request, WindowsBody)
        if len(body.windows) > WINDOWS_MAX:
            raise ValueError("too many windows")
        self.windows = body.windows
        return await self._get_windows(request)

    async def _get_windows(self, _request: web.Request) -> web.StreamResponse:
        return answer({"windows": self.windows})

    async def _set_statement_script(self, request: web.Request) -> web.StreamResponse:
        self._statements.script = await _body(request, StatementScript)
        return await self._get_statement_script(request)

    async def _get_statement_script(self, _request: web.Request) -> web.StreamResponse:
        return answer(self._statements.script)


async def _body(request: web.Request, type_: type[T]) -> T:
    return msgspec.json.decode(await request.read(), type=type_)


def _page_of(request: web.Request) -> tuple[int, int]:
    after, page_size = int(request.query.get("after", "0")), int(request.query.get("page_size", str(PAGE_MAX)))
    if not (0 <= after < 2**63 and 1 <= page_size <= PAGE_MAX):
        raise ValueError("no such page")
    return after, page_size
