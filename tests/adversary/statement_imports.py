"""The provider's statements of a run, imported into recon: the bad files first, which must be refused whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from channel_gateway.sandbox.client import read_book, read_statement, script
from channel_gateway.sandbox.statement_formats import FORMATS, StatementFormat
from meshctl.invariants.book import accounts_of
from meshctl.settings import MeshSettings
from meshctl.statements import What, of_file
from paykit.errors import MeshError
from paykit.rpc.channels import Channels
from paymesh.recon.v1 import statement_service_pb2_grpc
from tests.adversary import misdeeds

IMPORT_TIMEOUT_S = 300.0
_FORMATS: tuple[StatementFormat, ...] = ("csv", "camt053", "mt940")


class Imported(msgspec.Struct):
    """What came of it."""

    files: int = 0
    lines: int = 0
    refused: list[str] = []  # which bad file, and why it was not taken
    problems: list[str] = []


class Importer:
    """Fetches statements from the provider and hands them to recon."""

    def __init__(self, settings: MeshSettings, channels: Channels, folder: Path, say: Callable[[str], None]) -> None:
        assert settings.sandbox is not None
        self._url = f"http://{settings.sandbox.host}:{settings.sandbox.port}"
        self._key = settings.sandbox.admin_key.get_secret_value()
        self._accounts = {name: channel for name, (channel, mode) in accounts_of(settings).items() if mode == "live"}
        self._stub = statement_service_pb2_grpc.StatementServiceStub(channels.get("recon"))
        self._folder = folder
        self._say = say
        self._imported = Imported()

    async def all(self) -> Imported:
        """Every day of every account, in turn in each format; and the day after the last, for what was put off."""
        entries = [entry async for entry in read_book(self._url, self._key)]
        first = min((entry.settle_at_ms for entry in entries), default=0)
        today = datetime.now(UTC).date()
        day = datetime.fromtimestamp(first / 1000, UTC).date()
        await self._refuse("truncated", today)
        await self._refuse("wrong_closing", today)
        await script(self._url, self._key, "statement-script", {"rates": misdeeds.STATEMENT_RATES})
        while day <= today + timedelta(days=1):
            for number, account in enumerate(sorted(self._accounts)):
                await self._import(account, day, _FORMATS[number % len(_FORMATS)])
            day += timedelta(days=1)
        self._say(f"{self._imported.files} statements with {self._imported.lines:,} lines imported")
        return self._imported

    async def _refuse(self, difference: str, day: date) -> None:
        """A file that is wrong as a whole is not imported in part either."""
        await script(self._url, self._key, "statement-script", {"rates": {difference: 1.0}})
        for number, account in enumerate(sorted(self._accounts)):
            format_ = _FORMATS[number % len(_FORMATS)]
            try:
                last = await self._send(account, day, format_)
            except MeshError as error:
                self._imported.refused.append(f"{difference} {format_}: {error.reason}")
            else:
                found = last.statement.statement_id
                self._imported.problems.append(f"a {difference} {format_} of {account} was imported as {found}")

    async def _import(self, account: str, day: date, format_: StatementFormat) -> None:
        try:
            last = await self._send(account, day, format_)
            again = await self._send(account, day, format_)
        except MeshError as error:
            self._imported.problems.append(f"{account} {day} {format_} was refused: {error.reason} {error.message}")
            return
        self._imported.files += 1
        self._imported.lines += last.read_line_count
        if not again.was_known or again.statement.statement_id != last.statement.statement_id:
            self._imported.problems.append(f"{account} {day} {format_} was imported twice")

    async def _send(self, account: str, day: date, format_: StatementFormat) -> Any:
        path = self._folder / f"{account}-{day}.{FORMATS[format_].extension}"
        chunks = [chunk async for chunk in read_statement(self._url, self._key, day, format_, account)]
        await asyncio.to_thread(path.write_bytes, b"".join(chunks))
        what = What(self._accounts[account], day.isoformat(), format_, account)
        last = None
        async for response in self._stub.ImportStatement(of_file(path, what), timeout=IMPORT_TIMEOUT_S):
            last = response
        assert last is not None
        return last
