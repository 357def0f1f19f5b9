"""The provider's side door over HTTP: its book, what it did to whom, its scripts, its statements and its customers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import Any, Literal

import aiohttp
import msgspec

from channel_gateway.sandbox.behaviour import Kind, Operation, Status
from channel_gateway.sandbox.statement import SIGN
from channel_gateway.sandbox.statement_formats import StatementFormat

PAGE_SIZE = 1000
LOOK_INTERVAL_S = 0.02
Script = Literal["faults", "windows", "statement-script"]


class BookEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One order in the provider's book, as it stands now."""

    sequence: int
    account: str
    livemode: bool
    kind: Kind
    reference: str  # the channel order id
    provider_reference: str
    original_reference: str
    asked_minor: int
    amount_minor: int  # what it moved, or reserved, once it has succeeded; until then what was asked for
    currency: str
    status: Status
    failure_code: str
    created_at_ms: int
    settle_at_ms: int = 0  # when its status became, or becomes, what the provider means in the end
    merchant: str = ""
    behaviour: str = "ok"
    copy_no: int = 0  # 1: the same order a second time


class BookPage(msgspec.Struct, frozen=True):
    """A page of the book; ``next_after`` is None on the last."""

    entries: list[BookEntry]
    next_after: int | None


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to one call about ``reference``, where it was anything but plainly carried out."""

    sequence: int
    account: str
    reference: str  # the channel order id
    operation: Operation
    behaviour: str  # its name in behaviour.BEHAVIOURS, or why it was refused
    at_ms: int


class DeedPage(msgspec.Struct, frozen=True):
    """A page of deeds; ``next_after`` is None on the last."""

    deeds: list[Deed]
    next_after: int | None


_decode_book = msgspec.json.Decoder(BookPage).decode
_decode_deeds = msgspec.json.Decoder(DeedPage).decode


async def read_book(base_url: str, admin_key: str, timeout_s: float = 30.0) -> AsyncIterator[BookEntry]:
    """Every entry, in order of booking. aiohttp.ClientError or TimeoutError where the provider does not answer."""
    async with _as_admin(base_url, admin_key, timeout_s) as session:
        after: int | None = 0
        while after is not None:
            page = _decode_book(await _page(session, "/v1/book", after))
            for entry in page.entries:
                yield entry
            after = page.next_after


async def read_deeds(base_url: str, admin_key: str, timeout_s: float = 30.0) -> AsyncIterator[Deed]:
    """All that was done to calls, in order. Errors as of ``read_book``."""
    async with _as_admin(base_url, admin_key, timeout_s) as session:
        after: int | None = 0
        while after is not None:
            page = _decode_deeds(await _page(session, "/v1/deeds", after))
            for deed in page.deeds:
                yield deed
            after = page.next_after


def moved_minor(entry: BookEntry) -> int:
    """What an entry made the account gain, as it stands; negative where it lost, 0 where nothing moved."""
    return SIGN.get(entry.kind, 0) * entry.amount_minor if entry.status == "succeeded" else 0


async def script(base_url: str, admin_key: str, what: Script, content: Any, timeout_s: float = 10.0) -> None:
    """Replaces a script of the provider: {"rules": [FaultRule…]}, {"windows": [Window…]}, or a StatementScript.

    aiohttp.ClientResponseError 400 where it makes no sense.
    """
    async with _as_admin(base_url, admin_key, timeout_s) as session:
        body = msgspec.json.encode(content)
        async with session.post(f"/v1/{what}", data=body, allow_redirects=False) as response:
            response.raise_for_status()


async def read_statement(
    base_url: str, key: str, day: date, format_: StatementFormat, account: str = "", timeout_s: float = 600.0
) -> AsyncIterator[bytes]:
    """The file of a day, a chunk at a time: of the account that ``key`` belongs to, or, with the admin's key, of
    ``account``. Errors as of ``read_book``."""
    async with _as_admin(base_url, key, timeout_s) as session:
        query = {"format": format_, "account": account}
        async with session.get(f"/v1/statements/{day.isoformat()}", params=query, allow_redirects=False) as response:
            response.raise_for_status()
            async for chunk in response.content.iter_any():
                yield chunk


def _as_admin(base_url: str, key: str, timeout_s: float) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {key}"}
    return aiohttp.ClientSession(base_url, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout_s))


async def _page(session: aiohttp.ClientSession, path: str, after: int) -> bytes:
    query = {"after": str(after), "page_size": str(PAGE_SIZE)}
    async with session.get(path, params=query, allow_redirects=False) as response:
        response.raise_for_status()
        return await response.read()


async def decide_as_customer(
    base_url: str, admin_key: str, reference: str, decision: Literal["confirm", "decline"], timeout_s: float = 10.0
) -> None:
    """Lets the customer of a pending charge or authorisation confirm or decline it now, whatever its token says.

    ``reference`` is the channel order id. Waits until the provider has the order. TimeoutError where it does not come
    in time; aiohttp.ClientResponseError 409 where the order is settled already.
    """
    body = msgspec.json.encode({"reference": reference, "decision": decision})
    async with asyncio.timeout(timeout_s), _as_admin(base_url, admin_key, timeout_s) as session:
        while True:
            async with session.post("/v1/customers", data=body, allow_redirects=False) as response:
                if response.status != 404:
                    response.raise_for_status()
                    return
            await asyncio.sleep(LOOK_INTERVAL_S)
