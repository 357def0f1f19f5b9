"""``python -m bench``: every figure of docs/performance.md, on private servers that end with it.

Runs are interleaved, so that whatever else the machine does falls on all alike, and of each figure the median counts.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from bench import bare, counters, ledger, purchases, report, transfers
from bench.children import LoadFailed
from bench.measure import Sample, median
from bench.report import Line
from meshctl.servers import MariaDbServer
from meshctl.settings import SERVICES
from meshctl.stack import Stack, running_stack
from paykit.rpc import loop
from paykit.settings import ShardSettings

PARTS = ("ledger", "grpc", "purchase")
BUFFER_POOL_MB = 256
CHECK_TIMEOUT_S = 600


class Scale(msgspec.Struct, frozen=True):
    """How often each figure is taken, and for how many seconds each time."""

    rounds: int
    ledger_s: float
    grpc_s: float
    purchase_s: float
    bare_s: float


FULL = Scale(rounds=3, ledger_s=8, grpc_s=10, purchase_s=20, bare_s=10)
QUICK = Scale(rounds=1, ledger_s=2, grpc_s=3, purchase_s=5, bare_s=3)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    quick: Annotated[bool, typer.Option("--quick", help="One short round: shows that it works, measures little.")] = (
        False
    ),
    only: Annotated[str, typer.Option(help="Some parts alone: ledger, grpc, purchase, separated by commas.")] = "",
) -> None:
    """Measure, print the table and, where all of it was measured in full, write it into docs/performance.md."""
    parts = only.split(",") if only else list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(f"unknown part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    scale = QUICK if quick else FULL
    lines: list[Line] = []
    for part, measure in (("ledger", _ledger), ("grpc", _grpc), ("purchase", _purchase)):
        if part in parts:
            report.say(f"{part} …")
            with tempfile.TemporaryDirectory(prefix="paymesh-bench-") as folder:
                lines += measure(Path(folder), scale)
    report.show(lines, scale.rounds)
    if not quick and set(parts) == set(PARTS):
        report.write(lines, scale.rounds, shlex.join(["python", "-m", "bench", *sys.argv[1:]]))


def _ledger(folder: Path, scale: Scale) -> list[Line]:
    server = MariaDbServer(folder / "mariadb", buffer_pool_mb=BUFFER_POOL_MB)
    server.start()
    try:
        shards = {"s0": ShardSettings(live=server.create_database("bench_ledger"))}
        samples = loop.run(ledger.run(shards, scale.rounds, scale.ledger_s))
    finally:
        server.stop()
    found = {key: median(runs) for key, runs in samples.items()}
    lines = []
    for accounts in ledger.PICKS:
        base, batched = found[accounts, ledger.BASELINE], found[accounts, ledger.EXECUTOR]
        what = f"ledger transfer, {accounts}"
        times = batched.per_second / base.per_second
        lines.append(Line(what, f"{ledger.BASELINE}, {ledger.CALLERS} callers", base))
        lines.append(Line(what, f"{ledger.EXECUTOR}, {ledger.CALLERS} callers", batched, f"{times:.1f} times that"))
    return lines


def _grpc(folder: Path, scale: Scale) -> list[Line]:
    loads = [msgspec.structs.replace(load, seconds=scale.grpc_s) for load in (transfers.UNARY, transfers.BATCH)]
    samples: defaultdict[transfers.Load, list[Sample]] = defaultdict(list)
    with running_stack(folder, buffer_pool_mb=BUFFER_POOL_MB) as stack:
        transfers.fund(stack)
        for name in stack.running():
            if name in SERVICES and name != "pay_core":
                stack.stop(name)
        for _ in range(scale.rounds):
            for load in loads:
                samples[load].append(transfers.measure(stack.config, load))
    return [
        Line("transfer by balance through gRPC", _how(load.batch, load.callers), median(runs))
        for load, runs in samples.items()
    ]


def _purchase(folder: Path, scale: Scale) -> list[Line]:
    loads = [msgspec.structs.replace(load, seconds=scale.purchase_s) for load in (purchases.UNARY, purchases.BATCH)]
    samples: defaultdict[purchases.Load, list[Sample]] = defaultdict(list)
    bare_samples: list[Sample] = []
    paid = 0
    with running_stack(folder, buffer_pool_mb=BUFFER_POOL_MB) as stack:
        sampled = bare.sample(stack)
        file = folder / "sampled"
        file.write_bytes(msgspec.msgpack.encode(sampled))
        loop.run(bare.make_scratch(sampled))
        for _ in range(scale.rounds):
            for load in loads:
                outcome = purchases.measure(stack.config, load)
                samples[load].append(outcome.sample)
                paid += outcome.paid
                counters.settle(stack)
            bare_samples.append(bare.measure(file, scale.bare_s))
        _check(stack)
    report.say(f"{paid} purchases, all PAID, and every invariant holds")
    alone = median(bare_samples)
    lines = []
    for load, runs in samples.items():
        found = median(runs)
        share = f"{found.per_second / alone.per_second:.0%} of the bare script"
        how = f"{_how(load.batch, load.callers)}, at most {load.under_way} under way"
        lines.append(Line("purchase by card, accepted to PAID", how, found, share))
    rows = f"{sampled.rows_per_purchase():.1f} rows a purchase; times are of {sampled.purchases} purchases"
    lines.append(Line("the same rows by a bare script", f"{bare.PER_TRANSACTION} a transaction", alone, rows))
    return lines


def _how(batch: int, callers: int) -> str:
    return f"unary, {callers} callers" if batch == 1 else f"Batch of {batch}, {callers} callers"


def _check(stack: Stack) -> None:
    """Every invariant over what the load has left behind; LoadFailed where one is violated."""
    command = [sys.executable, "-m", "meshctl", "check", "--settled", "--config", str(stack.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S)
    if done.returncode != 0:
        raise LoadFailed(f"meshctl check found violations:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    app()
