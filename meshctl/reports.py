"""Reports: asked of recon, printed in short, written as CSV and as a page of HTML."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from meshctl.settings import load_mesh
from paykit import context as business
from paykit.clock import SystemClock
from paykit.ids import slot_of
from paykit.rpc import loop
from paykit.rpc.channels import Channels
from paymesh.recon.v1 import report_service_pb2, report_service_pb2_grpc
from recon.reports.csv_text import as_csv
from recon.reports.figures import Figure, figures, of_section
from recon.reports.html import as_html, money

TIMEOUT_S = 60.0


class Wanted(msgspec.Struct, frozen=True):
    """What a report is of; a name that is empty stands for all."""

    from_date: str
    to_date: str
    channel: str = ""
    currency: str = ""
    merchant: str = ""
    shadow: bool = False

    @property
    def title(self) -> str:
        """``Reconciliation of 2026-11-29, sandbox_card``."""
        days = self.from_date if self.from_date == self.to_date else f"{self.from_date} to {self.to_date}"
        names = [name for name in (self.channel, self.currency, self.merchant, "shadow" if self.shadow else "") if name]
        return ", ".join([f"Reconciliation of {days}", *names])


def run(config: Path, wanted: Wanted, csv: Path | None, html: Path | None) -> int:
    """Asks, writes what files were named, and prints the summary; 0."""
    report = loop.run(_ask(config, wanted))
    console = Console()
    show(console, report)
    for path, text in ((csv, as_csv(report)), (html, as_html(report, wanted.title))):
        if path is not None:
            path.write_text(text, newline="")
            console.print(f"written: {path}")
    return 0


async def _ask(config: Path, wanted: Wanted) -> report_service_pb2.GetDailyReportResponse:
    settings = load_mesh(config)
    channels = Channels(settings.addresses, settings.tls)
    context = business.mint(slot_of(secrets.token_hex(8)), SystemClock().now_ms(), shadow=wanted.shadow)
    try:
        with business.use(context):
            return await ask(channels, wanted)
    finally:
        await channels.close()


async def ask(channels: Channels, wanted: Wanted) -> report_service_pb2.GetDailyReportResponse:
    """The report."""
    request = report_service_pb2.GetDailyReportRequest(
        from_date=wanted.from_date,
        to_date=wanted.to_date,
        channel=wanted.channel,
        currency_code=wanted.currency,
        merchant=wanted.merchant,
    )
    stub = report_service_pb2_grpc.ReportServiceStub(channels.get("recon"))
    report: report_service_pb2.GetDailyReportResponse = await stub.GetDailyReport(request, timeout=TIMEOUT_S)
    return report


def show(console: Console, report: report_service_pb2.GetDailyReportResponse) -> None:
    """A line for each channel and currency."""
    found = list(figures(report))
    table = Table(box=None, pad_edge=False)
    names = ("channel", "currency", "orders", "agree", "differ", "lines", "breaks open now", "at risk")
    for name in names:
        table.add_column(name, justify="left" if name in names[:2] else "right")
    for channel, currency in sorted({(one.channel, one.currency) for one in found}):
        of_it = [one for one in found if (one.channel, one.currency) == (channel, currency)]
        orders, open_now = of_section(of_it, "ORDERS"), of_section(of_it, "AGEING")
        said = Counter[str]()
        for one in orders:
            said[one.difference] += one.number
        table.add_row(
            channel or "(none)",
            currency or "(none)",
            _count(orders),
            f"{said['AGREED']:,}",
            f"{said['BROKEN']:,}",
            _count(of_section(of_it, "LINES")),
            _count(open_now),
            money(sum(one.amount_minor for one in open_now), currency),
        )
    console.print(table)


def _count(found: list[Figure]) -> str:
    return f"{sum(one.number for one in found):,}"
