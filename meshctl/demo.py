"""``meshctl demo``: orders through the whole system, what became of each, and whether every invariant holds."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from datetime import date
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from meshctl import check
from meshctl.closing import close_date, trial_balance
from meshctl.day_statements import reconcile
from meshctl.embedded import EmbeddedMesh, log_to_file
from meshctl.scenarios import SCENARIOS, Desk, Scenario, ScenarioFailed
from meshctl.settings import SERVICES, MeshSettings, load_mesh
from meshctl.timeline import gather
from meshctl.trace import tree, wide_console
from pay_core.closing import date_at
from paykit.clock import SystemClock
from paykit.errors import ConfigurationError, MeshError, Unavailable
from paykit.rpc import loop
from paykit.rpc.channels import Channels
from paymesh.recon.v1 import recon_service_pb2, recon_service_pb2_grpc

EXIT_FAILED = 1
CONNECT_TIMEOUT_S = 10
RECON_TIMEOUT_S = 60.0
RECON_POLL_INTERVAL_S = 0.2

# What an earlier demo leaves in its folder; nothing else is ever removed from it.
_LEAVINGS = ("paymesh.toml", "data", "bus", "logs")


class Outcome(msgspec.Struct):
    """How one scenario went. ``problem`` is empty where all held."""

    scenario: Scenario
    took_s: float
    order_count: int
    problem: str


def run(directory: Path, config: Path | None) -> int:
    """Runs every scenario, on a fresh system in ``directory`` or on the running one of ``config``; 0 when all holds."""
    return loop.run(_embedded(directory) if config is None else _running(config))


async def _embedded(directory: Path) -> int:
    _clear(directory)
    log_to_file(directory)
    console = wide_console()
    console.print(f"starting four services and the sandbox provider in {directory} …")
    async with EmbeddedMesh(directory) as mesh:
        outcomes, is_read = await _run_all(console, mesh.settings), True
        try:
            await mesh.settle()
        except TimeoutError as error:
            # What is not over yet violates an invariant of a settled system: the checker says which.
            console.print(f"[bold red]✗ {escape(str(error))}[/]")
        else:
            await _end_of_day(console, mesh)
            is_read = await _statements(console, mesh)
        is_clean = await _is_clean(console, mesh.settings, settled=True)
    return _conclude(console, outcomes, is_clean and is_read, directory / "paymesh.toml")


async def _running(config: Path) -> int:
    console = wide_console()
    settings = load_mesh(config)
    outcomes = await _run_all(console, settings)
    # Others may use the system at the same time: what is under way now is no violation.
    is_clean = await _is_clean(console, settings, settled=False)
    return _conclude(console, outcomes, is_clean, config)


def _clear(directory: Path) -> None:
    """Removes what an earlier demo left; ConfigurationError for a folder that something else lives in."""
    strangers = [path.name for path in directory.glob("*") if path.name not in _LEAVINGS] if directory.exists() else []
    if strangers:
        raise ConfigurationError(f"{directory} holds {strangers[0]}, which is not the demo's: name another with --dir")
    if directory.exists():
        shutil.rmtree(directory)


async def _run_all(console: Console, settings: MeshSettings) -> list[Outcome]:
    channels = Channels(settings.addresses, settings.tls)
    try:
        for service in SERVICES:
            try:
                await channels.wait_ready(service, CONNECT_TIMEOUT_S)
            except Unavailable as error:
                raise ConfigurationError(error.message) from error
        outcomes = [
            await _show(console, channels, number, scenario) for number, scenario in enumerate(SCENARIOS, start=1)
        ]
        await _reconciled(channels)
        return outcomes
    finally:
        await channels.close()


async def _show(console: Console, channels: Channels, number: int, scenario: Scenario) -> Outcome:
    """Runs one scenario and prints its orders."""
    console.rule(f"[bold]{number}. {scenario.title}", align="left")
    desk = Desk(channels)
    problem = ""
    started_s = time.monotonic()
    try:
        await scenario.run(desk)
    except (ScenarioFailed, MeshError) as error:
        problem = f"{type(error).__name__}: {error}"
    took_s = time.monotonic() - started_s
    for biz_id in desk.biz_ids:
        timeline = await gather(channels, biz_id)
        if timeline.entries:
            console.print(tree(timeline))
    for held in desk.held:
        console.print(f"[green]✓[/] {escape(held)}")
    if problem:
        console.print(f"[bold red]✗ {escape(problem)}[/]")
    console.print()
    return Outcome(scenario, took_s, len(desk.biz_ids), problem)


async def _reconciled(channels: Channels) -> None:
    """Returns when recon has heard both sides of all it has heard of, or has given up waiting."""
    stub = recon_service_pb2_grpc.ReconServiceStub(channels.get("recon"))
    until_s = time.monotonic() + RECON_TIMEOUT_S
    while time.monotonic() < until_s:
        summary = await stub.GetReconSummary(recon_service_pb2.GetReconSummaryRequest())
        if not any(count.waiting_count for count in summary.counts):
            return
        await asyncio.sleep(RECON_POLL_INTERVAL_S)


async def _end_of_day(console: Console, mesh: EmbeddedMesh) -> None:
    """Closes today's accounting date and prints its trial balance: what is wrong with it, ``meshctl check`` says."""
    console.rule("[bold]end of day", align="left")
    channels = Channels(mesh.settings.addresses)
    try:
        balance = await close_date(channels, date_at(SystemClock().now_ms()))
    finally:
        await channels.close()
    console.print(trial_balance(balance))
    sums = Counter[str]()
    for line in balance.lines:
        sums[line.currency_code] += line.balance_minor
    for unit, total in sorted(sums.items()):
        mark = "[bold red]✗[/]" if total else "[green]✓[/]"
        console.print(f"{mark} {balance.closed_book_count} books closed, the balances of {unit} sum to {total}")
    console.print()
    await mesh.settle()


async def _statements(console: Console, mesh: EmbeddedMesh) -> bool:
    """Imports the provider's statements of today, and prints what the day came to; whether none was refused."""
    console.rule("[bold]statements of the day", align="left")
    channels = Channels(mesh.settings.addresses)
    try:
        return await reconcile(console, channels, mesh.settings, date.fromisoformat(date_at(SystemClock().now_ms())))
    finally:
        await channels.close()
        await mesh.settle()
        console.print()


async def _is_clean(console: Console, settings: MeshSettings, *, settled: bool) -> bool:
    """Checks every invariant and prints a line for each."""
    console.rule("[bold]invariants", align="left")
    report = await check.audit(settings, settled=settled)
    check.show(report, console)
    console.print()
    return report.is_clean


def _conclude(console: Console, outcomes: list[Outcome], is_clean: bool, config: Path) -> int:
    table = Table(title="scenarios", title_justify="left", box=None, pad_edge=False)
    for column in ("", "scenario", "orders", "took"):
        table.add_column(column, justify="right" if column in ("orders", "took") else "left")
    for outcome in outcomes:
        mark = "[red]✗[/]" if outcome.problem else "[green]✓[/]"
        table.add_row(mark, outcome.scenario.title, str(outcome.order_count), f"{outcome.took_s:.2f} s")
    console.print(table)
    failed = [outcome for outcome in outcomes if outcome.problem]
    if not failed and is_clean:
        orders = sum(outcome.order_count for outcome in outcomes)
        console.print(f"[bold green]{len(outcomes)} scenarios, {orders} orders, every invariant holds[/]")
        console.print(f"look again: meshctl trace ID --config {config}")
        return 0
    found = "every invariant holds" if is_clean else "an invariant does not"
    console.print(f"[bold red]{len(failed)} of {len(outcomes)} scenarios failed, {found}[/]")
    return EXIT_FAILED
