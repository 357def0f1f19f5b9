"""An import from the first byte to the last match.

Received whole, read and checked whole; only then are lines stored, and only when all of them are stored are they
matched. Whatever ends it before that leaves nothing: here at once, or by the timer of whichever process is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from enum import StrEnum
from itertools import islice
from pathlib import Path

import msgspec
import structlog

from paykit.context import BusinessContext
from paykit.errors import FailedPrecondition, FieldViolation, InvalidArgument, ResourceExhausted
from paykit.ids import new_id
from paykit.store.command import Origin
from paykit.store.store import Store
from recon.rules import Rules
from recon.statements import identity, metrics, queries
from recon.statements.abandoning import abandon_quietly
from recon.statements.checks import Checker, Told
from recon.statements.commands import (
    IMPORT_RUNNING,
    BeginImport,
    MarkStored,
    NewStatement,
    Renew,
    StoreLines,
    slot_of_channel,
)
from recon.statements.formats import reader_of
from recon.statements.matching import Matcher
from recon.statements.model import Declared, Format, LineKind, Problem, StatementInvalid
from recon.statements.running import Window, Workshop, run_patiently
from recon.statements.settings import ChannelStatements, StatementsSettings
from recon.statements.settling import Judged
from recon.statements.spool import LineSpool, Placed, Upload
from recon.statements.states import StatementState
from recon.tables import Statement

STATEMENT_INVALID = "STATEMENT_INVALID"

_TELL_EVERY_S = 1.0
_LINES_AT_ONCE = 4_000  # taken off the thread
_LOOK_UP = 500  # references of one statement
_COMMIT_S = 12.0  # how long before its lease ends an import stores nothing any more: a transaction may last so long

log = structlog.get_logger(__name__)


class Phase(StrEnum):
    """What an import does. The names are those of the proto."""

    RECEIVING = "RECEIVING"
    READING = "READING"
    STORING = "STORING"
    MATCHING = "MATCHING"
    DONE = "DONE"


class Header(msgspec.Struct, frozen=True):
    """What the importer says of a file. ``origin`` tells that of the import, once size and digest are known."""

    origin: Callable[[int, str], Origin]
    context: BusinessContext
    channel: str
    account: str
    business_date: str
    format: Format | None
    file_name: str
    size_bytes: int
    sha256: str
    replaces_id: str


class Progress(msgspec.Struct):
    """How far an import is."""

    phase: Phase = Phase.RECEIVING
    received_bytes: int = 0
    read_lines: int = 0
    stored_lines: int = 0
    matched_lines: int = 0
    opened_breaks: int = 0
    closed_breaks: int = 0
    was_known: bool = False
    statement: Statement | None = None

    def judged(self, judged: Judged) -> None:
        """Counts what was matched."""
        self.matched_lines += judged.lines
        self.opened_breaks += judged.opened
        self.closed_breaks += judged.closed


class Importer:
    """Imports files, a few at a time."""

    def __init__(self, store: Store, settings: StatementsSettings, rules: Rules) -> None:
        self._store, self._settings = store, settings
        self._matcher = Matcher(store, settings, rules)
        self._count = 0

    async def run(self, header: Header, chunks: AsyncIterator[bytes]) -> AsyncIterator[Progress]:
        """Takes a file in; tells about once a second how far it is, and last of all the statement.

        InvalidArgument STATEMENT_INVALID with each problem (its field is the line), or where size or digest are not as
        told; FailedPrecondition; ResourceExhausted IMPORTS_BUSY. Left early, it undoes what is not complete.
        """
        channel = self._settings.channels.get(header.channel, ChannelStatements())
        format_ = header.format or channel.format
        if format_ is None:
            raise InvalidArgument([FieldViolation("header.format", "required: the settings name none for the channel")])
        reader_of(format_, channel, header.channel)
        with self._place(), self._folder() as folder:
            work = _Import(self._store, self._settings, self._matcher, header, channel, format_, folder)
            # A name that no settings know may be anything: it must not become a label.
            labels = (header.context.mode, header.channel if header.channel in self._settings.channels else "other")
            outcome = "failed"
            try:
                async for progress in work.run(chunks):
                    outcome = "failed" if progress.statement is None else "known" if progress.was_known else "done"
                    yield progress
            except InvalidArgument:
                outcome = "refused"
                raise
            finally:
                metrics.IMPORTS.labels(*labels, outcome).inc()
                metrics.LINES.labels(*labels).inc(work.new_lines)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._count >= self._settings.imports_max:
            raise ResourceExhausted("too many files are being imported", reason="IMPORTS_BUSY", retry_after_ms=5_000)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="paymesh-statement-", dir=self._settings.spool_path) as folder:
            yield Path(folder)


class _Import:
    """One import."""

    def __init__(
        self,
        store: Store,
        settings: StatementsSettings,
        matcher: Matcher,
        header: Header,
        channel: ChannelStatements,
        format_: Format,
        folder: Path,
    ) -> None:
        self._store, self._settings, self._matcher = store, settings, matcher
        self._header, self._channel, self._format, self._folder = header, channel, format_, folder
        # The client's deadline ends the call, and with it the import: commands must not fail by it one by one.
        self._context = msgspec.structs.replace(header.context, deadline_ms=None)
        self._statement_id = new_id("stm", slot_of_channel(header.channel), store.clock.now_ms())
        self._progress = Progress()
        self._workshop = Workshop()
        self.new_lines = 0

    async def run(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Progress]:
        """See Importer.run."""
        upload = Upload(self._folder)
        try:
            async for progress in self._receive(upload, chunks):
                yield progress
            work = asyncio.create_task(self._work(upload))
            try:
                while not work.done():
                    yield msgspec.structs.replace(self._progress)
                    await asyncio.wait({work}, timeout=_TELL_EVERY_S)
                yield work.result()
            finally:
                work.cancel()
                await asyncio.wait({work})
        finally:
            upload.close()

    async def _receive(self, upload: Upload, chunks: AsyncIterator[bytes]) -> AsyncIterator[Progress]:
        loop = asyncio.get_running_loop()
        told_s = loop.time()
        async for chunk in chunks:
            if upload.size_bytes + len(chunk) > self._settings.bytes_max:
                raise _wrong("chunk", f"the file is larger than {self._settings.bytes_max} bytes")
            await self._workshop.run(lambda data=chunk: upload.add(data))  # type: ignore[misc]
            self._progress.received_bytes = upload.size_bytes
            if loop.time() - told_s >= _TELL_EVERY_S:
                told_s = loop.time()
                yield msgspec.structs.replace(self._progress)

    async def _work(self, upload: Upload) -> Progress:
        header, progress = self._header, self._progress
        digest = upload.finish()
        if header.size_bytes and header.size_bytes != upload.size_bytes:
            raise _wrong("header.size_bytes", f"the file has {upload.size_bytes} bytes")
        if header.sha256 and header.sha256 != digest:
            raise _wrong("header.sha256", "the file has another digest")
        known = await queries.known_file(self._store, header.channel, digest, self._context.shadow)
        if known is not None:
            return self._known(known)
        spool = await self._workshop.run(lambda: LineSpool(self._folder, header.channel))
        try:
            told, doubled = await self._read(upload, spool)
            statement = await self._begin(upload, digest, told)
            if statement.id != self._statement_id:  # the same file, imported by somebody else meanwhile
                return self._known(await queries.statement_of(self._store, statement.id, self._context.shadow))
            statement = await self._store_all(statement, spool, doubled)
        finally:
            await self._workshop.run(spool.close)
        progress.phase = Phase.MATCHING
        progress.statement = await self._matcher.match(statement, progress.judged)
        progress.phase = Phase.DONE
        return progress

    def _known(self, statement: Statement) -> Progress:
        """What the import of this very file came to."""
        if statement.state in (StatementState.RECEIVING, StatementState.MATCHING):
            raise FailedPrecondition(
                f"this file is being imported as {statement.id}", reason=IMPORT_RUNNING, subject=statement.id
            )
        progress = self._progress
        progress.was_known, progress.statement, progress.phase = True, statement, Phase.DONE
        return progress

    async def _read(self, upload: Upload, spool: LineSpool) -> tuple[list[Told], int]:
        """Reads and checks the file into the spool; what it tells of its accounts, and how many lines twice."""
        self._progress.phase = Phase.READING
        checker = Checker(Declared(self._header.account, self._header.business_date))
        try:
            doubled = await self._workshop.run(lambda: self._read_all(upload, spool, checker))
        except StatementInvalid as error:
            raise invalid(error.problems) from None
        await self._place_by_reference(spool)
        return checker.told(), doubled

    def _read_all(self, upload: Upload, spool: LineSpool, checker: Checker) -> int:
        header = self._header
        account = header.account or self._channel.account or header.channel
        declared = Declared(account, header.business_date)
        with upload.open() as stream:
            items = reader_of(self._format, self._channel, header.channel)(stream, declared)
            for count in spool.add(checker.lines(items)):
                self._progress.read_lines += count
                if self._workshop.stop.is_set():
                    return 0
        doubled, problems = spool.settle()
        checker.add(problems)
        return doubled

    async def _place_by_reference(self, spool: LineSpool) -> None:
        """Finds the slots of the lines that do not name an order by our id."""
        after = 0
        while spool.has_unplaced:
            page = await self._workshop.run(lambda start=after: spool.unplaced(start, _LOOK_UP))  # type: ignore[misc]
            if not page:
                return
            references = [one.provider_reference for one in page if one.line.kind is LineKind.MOVEMENT]
            found = await queries.orders_by_reference(self._store, references, self._context.shadow)
            places = []
            for row, key, reference, line in page:
                ref = ""
                if line.kind is LineKind.MOVEMENT:
                    ref = queries.best_of(found.get(reference, []), self._header.channel, line)
                places.append((identity.slot_of(key, ref), ref, row))
            await self._workshop.run(lambda rows=places: spool.place(rows))  # type: ignore[misc]
            after = page[-1].row

    async def _begin(self, upload: Upload, digest: str, told: list[Told]) -> Statement:
        header = self._header
        new = NewStatement(
            id=self._statement_id,
            channel=header.channel,
            account=header.account,
            format=self._format.value,
            business_date=header.business_date,
            file_name=header.file_name,
            file_digest=digest,
            size_bytes=upload.size_bytes,
            replaces_id=header.replaces_id,
            told=told,
        )
        origin = msgspec.structs.replace(header.origin(upload.size_bytes, digest), context=self._context)
        return await run_patiently(self._store, BeginImport(origin, new, self._lease_ms))

    @property
    def _lease_ms(self) -> int:
        return int(self._settings.lease_s * 1000)

    async def _store_all(self, statement: Statement, spool: LineSpool, doubled: int) -> Statement:
        """Stores all lines, or none: what breaks it off takes them away again."""
        self._progress.phase = Phase.STORING
        try:
            counts = await _Storing(self._store, self._settings, self._context, self._workshop, self._progress).run(
                statement, spool
            )
            self.new_lines = counts.new
            origin = Origin.timer(self._context)
            mark = MarkStored(origin, statement, counts.new, counts.known + doubled, self._lease_ms)
            return await run_patiently(self._store, mark)
        except BaseException as error:
            log.warning("statement_import_broke_off", statement_id=statement.id, error_type=type(error).__name__)
            await asyncio.shield(abandon_quietly(self._store, statement))
            raise


class _Counts(msgspec.Struct):
    new: int = 0
    known: int = 0


class _Storing:
    """Stores the lines of a spool."""

    def __init__(
        self,
        store: Store,
        settings: StatementsSettings,
        context: BusinessContext,
        workshop: Workshop,
        progress: Progress,
    ) -> None:
        self._store, self._settings, self._context = store, settings, context
        self._workshop, self._progress = workshop, progress
        self._counts = _Counts()

    async def run(self, statement: Statement, spool: LineSpool) -> _Counts:
        """How many lines were new, and how many known."""
        loop = asyncio.get_running_loop()
        revision_max = await queries.revision_max(self._store, statement.channel, self._context.mode)
        lines = spool.in_order()
        renewed_s = loop.time()
        async with Window(self._settings.commands_at_once) as window:
            while page := await self._workshop.run(lambda: list(islice(lines, _LINES_AT_ONCE))):
                for part in parts_of(page, self._settings.lines_per_command):
                    if loop.time() - renewed_s > self._settings.lease_s / 4:
                        statement = await self._renew(statement)
                        renewed_s = loop.time()
                    await window.start(self._store_part(statement, part, revision_max))
        return self._counts

    async def _renew(self, statement: Statement) -> Statement:
        lease_ms = int(self._settings.lease_s * 1000)
        renew = Renew(Origin.timer(self._context), statement, StatementState.RECEIVING, lease_ms)
        return await run_patiently(self._store, renew)

    async def _store_part(self, statement: Statement, part: list[Placed], revision_max: int) -> None:
        assert statement.due_at_ms is not None
        until_ms = statement.due_at_ms - int(_COMMIT_S * 1000)
        origin = Origin.timer(self._context)
        command = StoreLines(origin, part[0].slot, statement, part, revision_max, until_ms)
        stored = await run_patiently(self._store, command)
        self._counts.new += stored.new
        self._counts.known += stored.known
        self._progress.stored_lines += len(part)


def parts_of(page: Sequence[Placed], limit: int) -> Iterator[list[Placed]]:
    """Lines divided by slot, and into parts of at most ``limit``."""
    by_slot: dict[int, list[Placed]] = {}
    for placed in page:
        by_slot.setdefault(placed.slot, []).append(placed)
    for some in by_slot.values():
        for start in range(0, len(some), limit):
            yield some[start : start + limit]


def invalid(problems: Sequence[Problem]) -> InvalidArgument:
    """The refusal of a file: a violation for each problem, its field the line."""
    return InvalidArgument(
        [FieldViolation(f"line {problem.line_no}", problem.reason) for problem in problems], reason=STATEMENT_INVALID
    )


def _wrong(field: str, description: str) -> InvalidArgument:
    return InvalidArgument([FieldViolation(field, description)], reason=STATEMENT_INVALID)
