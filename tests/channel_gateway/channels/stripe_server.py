"""A server that speaks Stripe's API as it is documented, with a book of its own: what the channel is shown against.

A payment method may say how its orders go: ``pm_card_visa__create_hang__refund_drop``. ``create``, ``capture``,
``cancel`` and ``refund`` name the call; ``hang`` never answers and books nothing, ``booked_hang``, ``booked_drop`` and
``booked_error`` book and do not answer, close the connection, or answer 500; ``processing`` answers so and goes through
a moment later, telling it ``twice`` or with a ``wrong`` amount where that is said; ``expired`` is an authorisation's
week that is over, or a card that takes no refund.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web

from tests.channel_gateway.channels import stripe_forms as forms
from tests.channel_gateway.channels.stripe_book import Account, ApiError, invalid, missing
from tests.channel_gateway.channels.stripe_webhooks import Webhooks

PENDING_S = 0.03


class Dropped(Exception):
    """The connection is to be closed without an answer."""


class Merchant:
    """An account with its key, its webhook endpoint, and what its idempotency keys were used for."""

    def __init__(self, livemode: bool, webhooks: Webhooks, now_s: Callable[[], int]) -> None:
        self.webhooks = webhooks
        self.book = Account(livemode, now_s, self._emit)
        # key -> (what it was used for, the answer; None while it is under way)
        self.keys: dict[str, tuple[tuple[str, str], tuple[int, bytes] | None]] = {}

    def _emit(self, type_: str, about: dict[str, Any]) -> None:
        named = about.get("payment_method", "")
        if "processing_wrong" in named:
            about = about | {"amount_received": about["amount_received"] + 1}
        self.webhooks.send(type_, about, copies=2 if "processing_twice" in named else 1)


class StripeServer:
    """Listens at ``url``. ``requests``: (method, path, headers, parameters) of each that came."""

    def __init__(self, clock_s: Callable[[], float] = time.time) -> None:
        self.clock_s = clock_s
        self.merchants: dict[str, Merchant] = {}
        self.requests: list[tuple[str, str, dict[str, str], dict[str, Any]]] = []
        self.url = ""
        self.has_search = True
        self.search_lag_s = 0.0
        self.refusal: tuple[int, dict[str, Any]] | None = None  # what everything is answered with
        self._runner: web.AppRunner | None = None
        self.gate: asyncio.Event | None = None  # what reading waits for
        self.asked = asyncio.Event()  # something is read
        self.hangs = asyncio.Event()  # something was booked, and its answer does not come
        self._closing = asyncio.Event()
        self._later: set[asyncio.Task[None]] = set()

    def add(self, api_key: str, livemode: bool, webhook_url: str, secrets: list[str]) -> Merchant:
        """An account that ``api_key`` opens."""
        merchant = Merchant(livemode, Webhooks(webhook_url, secrets, livemode), self.now_s)
        self.merchants[api_key] = merchant
        return merchant

    def now_s(self) -> int:
        """Its time."""
        return int(self.clock_s())

    async def start(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        self._closing.set()
        await asyncio.gather(*self._later, return_exceptions=True)
        for merchant in self.merchants.values():
            await merchant.webhooks.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        given = await request.post() if request.method == "POST" else request.query
        params = forms.parse((name, str(value)) for name, value in given.items())
        self.requests.append((request.method, request.path, dict(request.headers), params))
        replayed = False
        try:
            if self.refusal is not None:
                return _json(*self.refusal)
            merchant = self.merchants.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
            if merchant is None:
                raise ApiError(401, "invalid_request_error", message="Invalid API Key provided")
            self.asked.set()
            if self.gate is not None and request.method == "GET":
                await self.gate.wait()
            if request.method == "POST":
                status, body, replayed = await self._post(merchant, request, params)
            else:
                status, body = 200, json.dumps(self._get(merchant.book, request.path, params)).encode()
        except ApiError as error:
            status, body = error.status, json.dumps({"error": error.error}).encode()
        except Dropped:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        headers = {"Idempotent-Replayed": "true"} if replayed else {}
        return web.Response(
            status=status, body=body, headers=headers | {"Content-Type": "application/json", "Request-Id": "req_1aB"}
        )

    async def _post(self, merchant: Merchant, request: web.Request, params: dict[str, Any]) -> tuple[int, bytes, bool]:
        """(status, body, whether it is an answer that was given before)."""
        key = request.headers.get("Idempotency-Key", "")
        used_for = (request.path, json.dumps(params, sort_keys=True))
        if key in merchant.keys:
            known, answer = merchant.keys[key]
            if known != used_for:
                raise ApiError(400, "idempotency_error", message="Keys can only be used with the same parameters")
            if answer is None:
                raise ApiError(409, "idempotency_error", code="idempotency_key_in_use")
            return *answer, True
        fault = self._fault(merchant.book, request.path, params)
        if fault == "hang":
            await self._closing.wait()
            raise Dropped
        merchant.keys[key] = used_for, None
        try:
            status, body = 200, json.dumps(self._carry_out(merchant, request.path, params, fault)).encode()
        except ApiError as error:
            status, body = error.status, json.dumps({"error": error.error}).encode()
        if fault == "booked_error":
            status, body = 500, json.dumps({"error": {"type": "api_error"}}).encode()
        if fault == "booked_hang":
            self.hangs.set()
            await self._closing.wait()
        merchant.keys[key] = used_for, (status, body)
        if fault in ("booked_hang", "booked_drop"):
            raise Dropped
        return status, body, False

    @staticmethod
    def _fault(book: Account, path: str, params: dict[str, Any]) -> str:
        """How the call goes, as the payment method that it is about says."""
        *_, last = path.split("/")
        call = {"payment_intents": "create", "refunds": "refund"}.get(last, last)
        intents = book.objects["payment_intents"]
        about = [params.get("payment_intent", ""), *path.split("/")]
        intent = next((intents[name] for name in about if name in intents), {})
        named = params.get("payment_method") or params.get("destination") or intent.get("payment_method") or ""
        marks = [mark.split("_", 1) for mark in named.split("__")[1:]]
        return next((fault for name, fault in marks if name == call), "")

    def _carry_out(self, merchant: Merchant, path: str, params: dict[str, Any], fault: str) -> dict[str, Any]:
        book, steps = merchant.book, path.split("/")[2:]
        if steps == ["payment_intents"]:
            return self._create(merchant, params, fault)
        if steps == ["refunds"]:
            return book.refund(params, failure="expired_or_canceled_card" if fault == "expired" else "")
        if steps == ["payouts"]:
            return book.pay_out(params, status="pending" if fault == "pending" else "paid")
        if len(steps) == 3 and steps[0] == "payment_intents":
            intent = book.get("payment_intents", steps[1])
            if steps[2] == "capture":
                if fault == "expired" and intent["status"] == "requires_capture":
                    book.expire(intent)
                return book.capture(intent, params)
            if steps[2] == "cancel":
                return book.cancel(intent, params.get("cancellation_reason"))
        raise missing("route")

    def _create(self, merchant: Merchant, params: dict[str, Any], fault: str) -> dict[str, Any]:
        assert forms.truth(params.get("confirm"))
        if not fault.startswith(("processing", "requires_action")):
            return merchant.book.create_intent(params)
        intent = merchant.book.create_intent(params, holds=fault.removesuffix("_twice").removesuffix("_wrong"))
        answer = dict(intent)
        if intent["status"] == "processing":
            task = asyncio.get_running_loop().create_task(self._go_through(merchant.book, intent))
            self._later.add(task)
            task.add_done_callback(self._later.discard)
        return answer

    @staticmethod
    async def _go_through(book: Account, intent: dict[str, Any]) -> None:
        await asyncio.sleep(PENDING_S)
        book.go_through(intent)

    def _get(self, book: Account, path: str, params: dict[str, Any]) -> dict[str, Any]:
        name, *rest = path.split("/")[2:]
        if rest == ["search"] and name == "payment_intents" and self.has_search:
            return self._search(book, params["query"])
        if len(rest) == 1 and name in book.objects:
            return book.get(name, rest[0])
        if rest or name not in book.objects:
            raise missing("route")
        found = [said for said in book.all(name) if _is_wanted(said, params)]
        after = params.get("starting_after")
        if after is not None:
            ids = [said["id"] for said in found]
            if after not in ids:
                raise missing(name, "starting_after")
            found = found[ids.index(after) + 1 :]
        limit = int(params.get("limit", 10))
        if not 1 <= limit <= 100:
            raise invalid(param="limit")
        page = [self._expanded(book, said, params.get("expand", [])) for said in found[:limit]]
        return {"object": "list", "url": f"/v1/{name}", "has_more": len(found) > limit, "data": page}

    @staticmethod
    def _expanded(book: Account, said: dict[str, Any], expand: list[str]) -> dict[str, Any]:
        if "data.source" not in expand:
            return said
        source = next((kind[said["source"]] for kind in book.objects.values() if said["source"] in kind), None)
        return said | {"source": source}

    def _search(self, book: Account, query: str) -> dict[str, Any]:
        """Of metadata alone: ``metadata['key']:'value'``. What is newer than the lag is not found yet."""
        key, value = query.removeprefix("metadata['").removesuffix("'").split("']:'")
        found = [
            said
            for said in book.all("payment_intents")
            if said["metadata"].get(key) == value and said["created"] + self.search_lag_s <= self.now_s()
        ]
        return {"object": "search_result", "url": "/v1/payment_intents/search", "has_more": False, "data": found[:100]}


def _is_wanted(said: dict[str, Any], params: dict[str, Any]) -> bool:
    created, at = params.get("created", {}), said["created"]
    return (
        int(created.get("gte", 0)) <= at <= int(created.get("lte", at))
        and int(created.get("gt", -1)) < at < int(created.get("lt", at + 1))
        and params.get("payment_intent", said.get("payment_intent")) == said.get("payment_intent")
        and params.get("source", said.get("source")) == said.get("source")
        and params.get("customer", said.get("customer")) == said.get("customer")
    )


def _json(status: int, body: dict[str, Any]) -> web.Response:
    return web.Response(status=status, body=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
