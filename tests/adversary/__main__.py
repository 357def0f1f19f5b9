"""``python -m tests.adversary [ORDERS] [--seed N]``: orders against the adversary, and a table of what came of them."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from meshctl import check
from paykit.rpc import loop
from tests.adversary.adversary_run import Options, Summary, run

DEFAULT_ORDERS = 10_000
PROBLEMS_SHOWN = 50


def main() -> int:
    """0 where all held, 1 where not."""
    parser = argparse.ArgumentParser(prog="python -m tests.adversary", description=__doc__)
    parser.add_argument("orders", type=int, nargs="?", default=DEFAULT_ORDERS)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep-store", action="store_true", help="do not delete JetStream's store in the middle")
    parser.add_argument("--dir", type=Path, help="keep the stack's folder here, for a look at what went wrong")
    arguments = parser.parse_args()
    options = Options(orders=arguments.orders, seed=arguments.seed, loses_store=not arguments.keep_store)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{options.orders:,} orders, seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="paymesh-adversary-", ignore_cleanup_errors=True) as scratch:
        summary = loop.run(run(options, arguments.dir or Path(scratch), say=console.print))
    show(summary, console)
    return 0 if summary.holds else 1


def show(summary: Summary, console: Console) -> None:
    """Prints the tables, the lines of the checker and the problems."""
    verdict = summary.verdict
    table = Table(title="adversary run", title_justify="left", box=None, pad_edge=False, show_header=False)
    rows = {
        "orders": f"{summary.orders:,}, seed {summary.seed}",
        "ended": _counts(summary.states),
        "left by customers": f"{summary.left:,}",
        "answers missed and retried": _counts(summary.retries) or "none",
        "requests refused": _counts(summary.refusals) or "none",
        "misdeeds": f"{summary.deeds.total():,} of {len(summary.deeds)} kinds: {_counts(summary.deeds)}",
        "JetStream's store": f"lost, nats away for {summary.store_lost_s:.1f} s" if summary.store_lost_s else "kept",
        "statements": f"{summary.imported.files}, {summary.imported.lines:,} lines; refused: "
        + ", ".join(summary.imported.refused),
        "open breaks": _counts(verdict.breaks) or "none",
        "orders that differ": f"{len(verdict.differences):,}",
        "stray charges given back": f"{verdict.returned:,}",
        "duration": f"load {summary.load_s:.0f} s, drain {summary.drain_s:.0f} s, all {summary.took_s:.0f} s",
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(table)
    sides = sorted({side for by_side in verdict.totals.values() for side in by_side})
    totals = Table("channel", *sides, title="came in, minor units", title_justify="left", box=None, pad_edge=False)
    for (channel, currency), by_side in sorted(verdict.totals.items()):
        totals.add_row(f"{channel} {currency}", *(f"{by_side.get(side, 0):,}" for side in sides))
    console.print(totals)
    if summary.report is not None:
        check.show(summary.report, console)
    problems = summary.all_problems
    for problem in problems[:PROBLEMS_SHOWN]:
        console.print(f"[bold red]✗[/] {escape(problem)}")
    if len(problems) > PROBLEMS_SHOWN:
        console.print(f"[bold red]✗[/] … and {len(problems) - PROBLEMS_SHOWN:,} more")
    console.print("[bold green]all held[/]" if summary.holds else "[bold red]not all held[/]")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    sys.exit(main())
