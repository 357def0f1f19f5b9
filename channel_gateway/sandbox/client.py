"""Reads the provider's book over HTTP, for the invariant checker and for reconciliation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import aiohttp
import msgspec

PAGE_SIZE = 1000


class BookEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One order in the provider's book, as it stands now."""

    sequence: int
    account: str
    livemode: bool
    kind: Literal["charge", "refund", "payout"]
    reference: str  # the channel order id
    provider_reference: str
    original_reference: str
    amount_minor: int
    currency: str
    status: Literal["succeeded", "failed", "pending"]
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
