"""The sandbox provider's book: asked for over HTTP, or read from its file where the provider does not run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
from sqlalchemy.exc import DBAPIError

from channel_gateway.sandbox.book_tables import ENTRY_FIELDS, PAGE
from channel_gateway.sandbox.client import BookEntry, read_book
from channel_gateway.sandbox.entries import Entry
from channel_gateway.sandbox.settings import SandboxSettings
from meshctl.invariants.databases import PAGE_ROWS, reading_engine
from meshctl.settings import MeshSettings
from paykit.errors import ConfigurationError


async def entries(sandbox: SandboxSettings, now_ms: int) -> AsyncIterator[BookEntry]:
    """Every order in the book, as it stands at ``now_ms`` (Unix milliseconds), in order of booking.

    ConfigurationError where neither the provider answers nor its file can be read.
    """
    base_url = f"http://{sandbox.host}:{sandbox.port}"
    is_begun = False
    try:
        async for entry in read_book(base_url, sandbox.admin_key.get_secret_value()):
            is_begun = True
            yield entry
        return
    except (aiohttp.ClientError, TimeoutError) as error:
        # Another program may have the port of a provider that has ended: its file tells.
        if is_begun or not sandbox.book_path.is_file():
            raise ConfigurationError(f"the provider's book at {base_url} cannot be read: {error}") from error
    async for entry in _filed(sandbox, now_ms):
        yield entry


async def _filed(sandbox: SandboxSettings, now_ms: int) -> AsyncIterator[BookEntry]:
    engine = reading_engine(f"sqlite+aiosqlite:///{sandbox.book_path}")
    try:
        async with engine.connect() as connection:
            after: int | None = 0
            while after is not None:
                wanted = {"after": after, "page_size": PAGE_ROWS, "now_ms": now_ms}
                page = (await connection.execute(PAGE, wanted)).all()
                for sequence, *values in page:
                    yield _as_told(sequence, Entry(**dict(zip(ENTRY_FIELDS, values, strict=True))), now_ms)
                after = page[-1][0] if len(page) == PAGE_ROWS else None
    except DBAPIError as error:
        raise ConfigurationError(f"the provider's book {sandbox.book_path} cannot be read: {error.orig}") from error
    finally:
        await engine.dispose()


def _as_told(sequence: int, entry: Entry, now_ms: int) -> BookEntry:
    """As the provider itself would tell of it."""
    answer = entry.answer(now_ms)
    return BookEntry(
        sequence=sequence,
        account=entry.account,
        livemode=answer.livemode,
        kind=answer.kind,
        reference=answer.reference,
        provider_reference=answer.provider_reference,
        original_reference=entry.original_reference,
        asked_minor=entry.amount_minor,
        amount_minor=answer.amount_minor,
        currency=answer.currency,
        status=answer.status,
        failure_code=answer.failure_code,
        created_at_ms=entry.created_at_ms,
        settle_at_ms=entry.settle_at_ms,
        merchant=answer.merchant,
        behaviour=entry.behaviour,
        copy_no=entry.copy_no,
    )


def accounts_of(settings: MeshSettings) -> dict[str, tuple[str, str]]:
    """The provider's accounts by name, each with the (channel, mode) that the gateway uses it for."""
    if settings.sandbox is None or settings.channel_gateway is None:
        return {}
    by_key: dict[str, tuple[str, str]] = {}
    for name, channel in settings.channel_gateway.channels.items():
        by_key[channel.api_key.read()] = (name, "live")
        if channel.shadow is not None:
            by_key[channel.shadow.api_key.read()] = (name, "shadow")
    keys = {name: account.api_key.get_secret_value() for name, account in settings.sandbox.accounts.items()}
    return {name: by_key[key] for name, key in keys.items() if key in by_key}
