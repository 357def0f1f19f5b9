"""Hands statements out: streamed to whoever may see them, and as files in a folder once a day is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import structlog

from channel_gateway.sandbox.settings import SandboxSettings
from channel_gateway.sandbox.statement import StatementScript, Teller, date_of
from channel_gateway.sandbox.statement_book import StatementRequest, read_statement
from channel_gateway.sandbox.statement_formats import FORMATS, StatementFormat
from paykit.clock import Clock

log = structlog.get_logger(__name__)

AT_ONCE_MAX = 2
DAYS_BACK = 7  # what a provider that was away still writes
LOOK_INTERVAL_S = 30.0


class Statements:
    """The statements of all accounts. ``script`` says how they differ from the book."""

    def __init__(self, settings: SandboxSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._room = asyncio.Semaphore(AT_ONCE_MAX)
        self._writer: asyncio.Task[None] | None = None
        self.script = StatementScript(dict(settings.statement_rates))

    async def start(self) -> None:
        """Begins to write files where a folder is configured."""
        if self._settings.statement_folder is not None:
            self._writer = asyncio.create_task(self._keep_writing(self._settings.statement_folder))

    async def stop(self) -> None:
        """Ends it; a file that was being written is written anew after the next start."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    def is_known(self, day: date) -> bool:
        """Whether there can be a statement of that day: up to tomorrow, onto which lines are put off."""
        return day <= date_of(self._clock.now_ms()) + timedelta(days=1)

    async def stream(self, account: str, day: date, format_: StatementFormat) -> AsyncGenerator[bytes]:
        """A file, a chunk at a time, read on a thread of its own in one snapshot of the book."""
        request = self._request(account, day, format_)
        loop = asyncio.get_running_loop()
        async with self._room:
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-statement") as thread:
                chunks = read_statement(self._settings.book_path, request)
                try:
                    while (chunk := await loop.run_in_executor(thread, next, chunks, None)) is not None:
                        yield chunk
                finally:
                    # On the thread the snapshot was opened on, behind what it may still be doing.
                    thread.submit(chunks.close)

    def _request(self, account: str, day: date, format_: StatementFormat) -> StatementRequest:
        settings = self._settings.accounts[account]
        teller = Teller(account=account, seed=self._settings.seed, script=self.script, fees=settings.fee_table())
        return StatementRequest(
            teller=teller,
            merchant=settings.merchant or account,
            day=day,
            format=format_,
            base_currency=settings.currency,
            now_ms=self._clock.now_ms(),
        )

    async def write_files(self, folder: Path) -> None:
        """Writes the files of days that are over, and not written yet: one for each account and format."""
        ready_ms = self._clock.now_ms() - int(self._settings.statement_ready_after_s * 1000)
        for back in range(DAYS_BACK, 0, -1):
            day = date_of(ready_ms) - timedelta(days=back)
            for account in self._settings.accounts:
                for format_ in self._settings.statement_formats:
                    path = folder / account / f"{day.isoformat()}.{FORMATS[format_].extension}"
                    if not path.exists():
                        await self._write_file(path, account, day, format_)

    async def _keep_writing(self, folder: Path) -> None:
        while True:
            await self.write_files(folder)
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _write_file(self, path: Path, account: str, day: date, format_: StatementFormat) -> None:
        """Whole or not at all: it gets its name when it is complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        try:
            with unfinished.open("wb") as file:
                async for chunk in self.stream(account, day, format_):
                    file.write(chunk)
            unfinished.replace(path)
        except Exception:
            log.exception("sandbox_statement_failed", account=account, day=day.isoformat())
