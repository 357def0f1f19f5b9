"""Statements by hand: a file, or what the provider hands over, streamed into recon with a line of progress."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from meshctl.settings import load_mesh
from paykit import context as business
from paykit.clock import SystemClock
from paykit.errors import InvalidArgument, MeshError
from paykit.ids import slot_of
from paykit.money import format_minor
from paykit.rpc import loop
from paykit.rpc.channels import Channels
from paymesh.channel.v1 import channel_service_pb2, channel_service_pb2_grpc
from paymesh.recon.v1 import break_pb2, statement_pb2, statement_service_pb2, statement_service_pb2_grpc

EXIT_REFUSED = 1
CHUNK_BYTES = 1 << 18
TIMEOUT_S = 6 * 3600.0  # of a whole import
PROBLEMS_SHOWN = 20

# As ChannelService.FetchStatement, and people, call the formats.
FORMATS = {
    "csv": statement_pb2.STATEMENT_FORMAT_CSV,
    "camt053": statement_pb2.STATEMENT_FORMAT_CAMT053,
    "mt940": statement_pb2.STATEMENT_FORMAT_MT940,
    "stripe": statement_pb2.STATEMENT_FORMAT_STRIPE,
    "stripe_balance": statement_pb2.STATEMENT_FORMAT_STRIPE,
}
_FILES = FORMATS.keys() - {"stripe_balance"}

Request = statement_service_pb2.ImportStatementRequest
Response = statement_service_pb2.ImportStatementResponse


class What(msgspec.Struct, frozen=True):
    """What a file is. ``format`` is a key of FORMATS; empty: as the settings of the channel say."""

    channel: str
    day: str
    format: str = ""
    account: str = ""
    replaces: str = ""
    shadow: bool = False


def import_file(config: Path, file: Path, what: What) -> int:
    """Imports a file; 0, or EXIT_REFUSED where recon refuses it."""
    return loop.run(_carry_out(config, what, file))


def fetch(config: Path, what: What) -> int:
    """Imports what the provider hands over."""
    return loop.run(_carry_out(config, what, None))


async def _carry_out(config: Path, what: What, file: Path | None) -> int:
    console = Console()
    if what.format and what.format not in FORMATS:
        console.print(f"[bold red]✗ unknown format {escape(what.format)}: there are {', '.join(sorted(_FILES))}[/]")
        return EXIT_REFUSED
    settings = load_mesh(config)
    channels = Channels(settings.addresses, settings.tls)
    now_ms = SystemClock().now_ms()
    try:
        with business.use(business.mint(slot_of(secrets.token_hex(8)), now_ms, shadow=what.shadow)):
            requests = of_channel(channels, what) if file is None else of_file(file, what)
            done = await _import(console, channels, requests)
    except MeshError as error:
        show_refusal(console, error)
        return EXIT_REFUSED
    finally:
        await channels.close()
    show(console, done)
    return 0


async def of_file(file: Path, what: What) -> AsyncIterator[Request]:
    """A file, as parts of an import."""
    size_bytes = await asyncio.to_thread(os.path.getsize, file)
    yield header(what, what.format, file.name, size_bytes)
    source = await asyncio.to_thread(file.open, "rb")
    try:
        while chunk := await asyncio.to_thread(source.read, CHUNK_BYTES):
            yield Request(chunk=chunk)
    finally:
        source.close()


async def of_channel(channels: Channels, what: What) -> AsyncIterator[Request]:
    """What the provider hands over, as parts of an import."""
    stub = channel_service_pb2_grpc.ChannelServiceStub(channels.get("channel_gateway"))
    asked = channel_service_pb2.FetchStatementRequest(channel=what.channel, date=what.day)
    pieces = stub.FetchStatement(asked, timeout=TIMEOUT_S)
    is_first = True
    async for piece in pieces:
        if is_first:
            is_first = False
            yield header(what, piece.format, f"{what.channel}-{what.day}", 0)
        if piece.chunk:
            yield Request(chunk=piece.chunk)


def header(what: What, format_: str, name: str, size_bytes: int) -> Request:
    """The first part of an import. ``size_bytes`` is 0 where it is not known."""
    told = statement_service_pb2.ImportStatementHeader(
        channel=what.channel,
        account=what.account,
        business_date=what.day,
        format=FORMATS.get(format_, statement_pb2.STATEMENT_FORMAT_UNSPECIFIED),
        file_name=name[:255],
        size_bytes=size_bytes,
        replaces_statement_id=what.replaces,
    )
    return Request(header=told)


class _Source:
    """Requests, of which an error is kept: gRPC only says that the call was given up."""

    def __init__(self, requests: AsyncIterator[Request]) -> None:
        self._requests = requests
        self.error: Exception | None = None

    async def read(self) -> AsyncIterator[Request]:
        """The requests; they end where one could not be had."""
        try:
            async for request in self._requests:
                yield request
        except Exception as error:
            self.error = error
            raise


async def _import(console: Console, channels: Channels, requests: AsyncIterator[Request]) -> Response:
    stub = statement_service_pb2_grpc.StatementServiceStub(channels.get("recon"))
    source = _Source(requests)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    last: Response | None = None
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("connecting", total=None)
        try:
            async for response in stub.ImportStatement(source.read(), timeout=TIMEOUT_S):
                last = response
                progress.update(task, description=how_far(response))
        except Exception:
            if source.error is not None:
                raise source.error from None
            raise
    if last is None or not last.statement.statement_id:
        raise MeshError("recon ended the import without a statement")
    return last


def how_far(response: Response) -> str:
    """One line about an import that goes on."""
    phase = statement_service_pb2.ImportPhase.Name(response.phase).removeprefix("IMPORT_PHASE_").lower()
    return (
        f"{phase}: {response.received_bytes / 1e6:,.1f} MB, {response.read_line_count:,} lines read, "
        f"{response.stored_line_count:,} stored, {response.matched_line_count:,} matched, "
        f"{response.opened_break_count:,} breaks"
    )


def show(console: Console, done: Response) -> None:
    """What an import came to: its lines by kind and difference, and whether its balances follow those before."""
    statement = done.statement
    known = " (imported before)" if done.was_known else ""
    console.print(
        f"[green]✓[/] {statement.statement_id}{known}: {escape(statement.channel)} of {statement.business_date}"
    )
    console.print(
        f"  {statement.line_count:,} lines, {statement.known_line_count:,} known before; "
        f"{done.opened_break_count:,} breaks opened, {done.closed_break_count:,} closed"
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("", "difference", "lines", "sum", "fees"):
        table.add_column(heading, justify="right" if heading in ("lines", "sum", "fees") else "left")
    for total in statement.totals:
        kind = statement_pb2.StatementLineKind.Name(total.kind).removeprefix("STATEMENT_LINE_KIND_")
        wrong = break_pb2.BreakType.Name(total.difference).removeprefix("BREAK_TYPE_") if total.difference else ""
        amount, fee = (format_minor(minor, total.currency_code) for minor in (total.amount_minor, total.fee_minor))
        table.add_row(kind.lower(), wrong, f"{total.line_count:,}", amount, fee)
    console.print(table)
    for balance in statement.balances:
        console.print(f"  {_continuity(balance)}")


def _continuity(balance: statement_pb2.StatementBalance) -> str:
    who = f"{escape(balance.account)} {balance.currency_code}"
    said = statement_pb2.Continuity.Name(balance.continuity).removeprefix("CONTINUITY_").lower()
    if balance.continuity in (statement_pb2.CONTINUITY_GAP, statement_pb2.CONTINUITY_OVERLAP):
        gap = format_minor(balance.gap_minor, balance.currency_code)
        return f"[yellow]![/] {who}: {said}, opens {gap} higher than {balance.previous_statement_id} closed"
    return f"{who}: {said}"


def show_refusal(console: Console, error: MeshError) -> None:
    """Why an import was refused: every line that is wrong, and its reason."""
    if isinstance(error, InvalidArgument) and error.violations:
        console.print(f"[bold red]✗ refused: {error.reason}[/]")
        for violation in error.violations[:PROBLEMS_SHOWN]:
            console.print(f"  {escape(violation.field)}: {escape(violation.description)}")
        return
    console.print(f"[bold red]✗ {error.reason}: {escape(error.message)}[/]")
