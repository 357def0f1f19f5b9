"""The provider's side door over HTTP: its book, for the invariant checker and reconciliation, and its customers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import aiohttp
import msgspec

from channel_gateway.sandbox.behaviour import Kind, Status

PAGE_SIZE = 1000
LOOK_INTERVAL_S = 0.02


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


class BookPage(msgspec.Struct, frozen=True):
    """A page of the book; ``next_after`` is None on the last."""

    entries: list[BookEntry]
    next_after: int | None


_decoder = msgspec.json.Decoder(BookPage)


async def read_book(base_url: str, admin_key: str, timeout_s: float = 30.0) -> AsyncIterator[BookEntry]:
    """Every entry, in order of booking. aiohttp.ClientError or TimeoutError where the provider does not answer."""
    headers = {"Authorization": f"Bearer {admin_key}"}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(base_url, headers=headers, timeout=timeout) as session:
        after: int | None = 0
        while after is not None:
            query = {"after": str(after), "page_size": str(PAGE_SIZE)}
            async with session.get("/v1/book", params=query, allow_redirects=False) as response:
                response.raise_for_status()
                page = _decoder.decode(await response.read())
            for entry in page.entries:
                yield entry
            after = page.next_after


async def decide_as_customer(
    base_url: str, admin_key: str, reference: str, decision: Literal["confirm", "decline"], timeout_s: float = 10.0
) -> None:
    """Lets the customer of a pending charge or authorisation confirm or decline it now, whatever its token says.

    ``reference`` is the channel order id. Waits until the provider has the order. TimeoutError where it does not come
    in time; aiohttp.ClientResponseError 409 where the order is settled already.
    """
    headers = {"Authorization": f"Bearer {admin_key}"}
    body = msgspec.json.encode({"reference": reference, "decision": decision})
    async with asyncio.timeout(timeout_s), aiohttp.ClientSession(base_url, headers=headers) as session:
        while True:
            async with session.post("/v1/customers", data=body, allow_redirects=False) as response:
                if response.status != 404:
                    response.raise_for_status()
                    return
            await asyncio.sleep(LOOK_INTERVAL_S)
