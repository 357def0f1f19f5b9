"""``python -m tests.faults [PURCHASES]``: the full fault run, and a table of what it did and found."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from meshctl import check
from paykit.rpc import loop
from tests.faults.fault_run import Summary, run

DEFAULT_PURCHASES = "2000"
ROUNDS = 2


def main() -> int:
    """0 where all held, 1 where not."""
    # Taken out of the environment: to a service, an unknown PAYMESH_ variable is a configuration error.
    wanted = os.environ.pop("PAYMESH_FAULT_PURCHASES", DEFAULT_PURCHASES)
    purchases = int(sys.argv[1] if len(sys.argv) > 1 else wanted)
    console = Console(highlight=False, soft_wrap=True)
    seed = int(time.time())
    console.print(f"{purchases:,} purchases, each part killed {ROUNDS} times, seed {seed}")
    with tempfile.TemporaryDirectory(prefix="paymesh-faults-", ignore_cleanup_errors=True) as directory:
        summary = loop.run(run(purchases, Path(directory), rounds=ROUNDS, seed=seed, say=console.print))
    show(summary, console)
    return 0 if summary.holds else 1


def show(summary: Summary, console: Console) -> None:
    """Prints the table, the lines of the checker and the problems."""
    table = Table(title="fault run", title_justify="left", box=None, pad_edge=False, show_header=False)
    unknown = summary.unknown
    rows = {
        "kills": f"{len(summary.outages)}: {_counts([name for name, _ in summary.outages])}",
        "purchases": f"{summary.purchases:,} of {summary.orders:,} orders, and {summary.refunds:,} refunds",
        "ended": ", ".join(f"{count:,} {state}" for state, count in sorted(summary.states.items())),
        "answers missed and retried": ", ".join(f"{n:,} {code}" for code, n in sorted(summary.retries.items())),
        "requests refused": ", ".join(f"{n:,} {what}" for what, n in sorted(summary.refusals.items())) or "none",
        "attempts declined": f"{summary.declined_attempts:,}",
        "declared UNKNOWN": f"{unknown.unknown:,}",
        "… found by query": f"{unknown.ended_by_query:,}",
        "… found by notification": f"{unknown.ended_by_notification:,}",
        "requests replayed": f"{summary.replays:,}",
        "duration": f"load {summary.load_s:.0f} s, drain {summary.drain_s:.0f} s, all {summary.took_s:.0f} s",
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
    if summary.report is not None:
        check.show(summary.report, console)
    for problem in summary.problems:
        console.print(f"[bold red]✗[/] {escape(problem)}")
    console.print("[bold green]all held[/]" if summary.holds else "[bold red]not all held[/]")


def _counts(names: list[str]) -> str:
    return ", ".join(f"{name} ×{names.count(name)}" for name in dict.fromkeys(names))


if __name__ == "__main__":
    sys.exit(main())
