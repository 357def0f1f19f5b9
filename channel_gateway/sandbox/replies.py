"""HTTP answers of the provider: right ones, errors, and those that cannot be read."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from aiohttp import web

from channel_gateway.sandbox.behaviour import Reply

HUGE_BYTES = 1_048_576
_JSON = "application/json"

encode = msgspec.json.Encoder().encode


def answer(content: Any) -> web.Response:
    """``content`` as JSON."""
    return web.Response(body=encode(content), content_type=_JSON)


def error(status: int, code: str, message: str = "", retry_after_s: int = 0) -> web.Response:
    """An error as the provider tells it: {"error": {"code": …, "message": …}}."""
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
    body = encode({"error": {"code": code, "message": message}})
    return web.Response(body=body, content_type=_JSON, status=status, headers=headers)


def drop(request: web.Request) -> web.Response:
    """Closes the connection at once; what it returns goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def unreadable(request: web.Request, reply: Reply, content: Any) -> web.StreamResponse | None:
    """The answer in a form that nobody should trust; None where ``reply`` asks for no such form."""
    body = encode(content)
    match reply:
        case "truncated":
            return web.Response(body=body[: len(body) // 2], content_type=_JSON)
        case "cut_off":
            return await _cut_off(request, body)
        case "huge":
            padding = b" " * (HUGE_BYTES - len(body))
            return web.Response(body=body[:-1] + padding + body[-1:], content_type=_JSON)
        case "wrong_type":
            return web.Response(body=body, content_type="text/html")
        case "redirect":
            return web.Response(status=302, headers={"Location": "/v1/elsewhere"})
        case "garbage":
            return web.Response(body=hashlib.blake2b(body).digest(), content_type=_JSON)
        case _:
            return None


async def _cut_off(request: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": _JSON, "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()  # what was written still leaves
    return response
