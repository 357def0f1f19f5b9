"""The sandbox provider's statements of the day as it stands, imported and reported: the end of a demonstration.

In life a day must be over before its statement is fetched (``meshctl recon fetch``); the provider tells a running one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date

from rich.console import Console
from rich.markup import escape

from channel_gateway.sandbox.client import read_statement
from meshctl import reports, statements
from meshctl.settings import MeshSettings
from meshctl.statements import Request, What
from paykit.errors import MeshError
from paykit.rpc.channels import Channels
from paymesh.recon.v1 import statement_service_pb2_grpc

_FORMAT = "csv"


async def reconcile(console: Console, channels: Channels, settings: MeshSettings, day: date) -> bool:
    """Imports the statement of every account that the provider has for live orders, and prints the report of the day.

    False where recon refuses one: the provider's files are good, so that is a fault of ours.
    """
    assert settings.sandbox is not None
    assert settings.channel_gateway is not None
    stub = statement_service_pb2_grpc.StatementServiceStub(channels.get("recon"))
    is_good = True
    for channel in settings.channel_gateway.channels:
        what = What(channel, day.isoformat(), _FORMAT)
        try:
            answers = [answer async for answer in stub.ImportStatement(_parts(settings, what, day))]
        except MeshError as error:
            console.print(f"[bold red]✗ {escape(channel)}: {escape(error.message)}[/]")
            is_good = False
            continue
        done = answers[-1]
        differing = sum(total.line_count for total in done.statement.totals if total.difference)
        console.print(
            f"[green]✓[/] {escape(channel)}: {done.statement.line_count} lines of its statement, "
            f"{differing} differ from what was recorded"
        )
    wanted = reports.Wanted(day.isoformat(), day.isoformat())
    reports.show(console, await reports.ask(channels, wanted))
    return is_good


async def _parts(settings: MeshSettings, what: What, day: date) -> AsyncIterator[Request]:
    sandbox = settings.sandbox
    assert sandbox is not None
    yield statements.header(what, _FORMAT, f"{what.channel}.csv", 0)
    url, key = f"http://{sandbox.host}:{sandbox.port}", sandbox.admin_key.get_secret_value()
    async for chunk in read_statement(url, key, day, "csv", account=f"{what.channel}_live"):
        yield Request(chunk=chunk)
