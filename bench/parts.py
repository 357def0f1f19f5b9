"""The parts of the benchmark: each brings up what it measures, in a folder of its own, and gives its lines."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bench import (
    bare,
    counters,
    debits,
    growth,
    ledger,
    operations,
    payments,
    purchases,
    report,
    slow_channel,
    statements,
    transfers,
    tree,
)
from bench.children import LoadFailed
from bench.counters import Measured
from bench.flow import Pace
from bench.growth import Cost
from bench.measure import Sample, median
from bench.report import Line
from bench.slow_channel import Beside, Steady
from meshctl.servers import MariaDbServer
from meshctl.settings import SERVICES
from meshctl.stack import Stack, running_stack
from paykit.rpc import loop
from paykit.settings import ShardSettings

BUFFER_POOL_MB = 256
GROWTH_BUFFER_POOL_MB = 1024  # of each of the two servers, for both sizes
RECON_HOLDS_S = 8  # more than recon's gather_s and gather_pause_s
CHECK_TIMEOUT_S = 600
CPU_MS_MIN = 0.05  # what is less is no part worth a name


class Scale(msgspec.Struct, frozen=True):
    """How often each figure is taken, and for how many seconds each time; how much is stored for ``growth``."""

    rounds: int
    ledger_s: float
    grpc_s: float
    operation_s: float
    tree_s: float
    growth_s: float
    slow_s: float
    purchase_s: float
    bare_s: float
    stored: int
    copies: int
    statement_lines: int
    differences: int  # of each kind


FULL = Scale(
    rounds=3,
    ledger_s=8,
    grpc_s=10,
    operation_s=8,
    tree_s=8,
    growth_s=10,
    slow_s=12,
    purchase_s=20,
    bare_s=10,
    stored=10_000,
    copies=99,
    statement_lines=1_000_000,
    differences=40,
)
QUICK = Scale(
    rounds=1,
    ledger_s=2,
    grpc_s=3,
    operation_s=2,
    tree_s=2,
    growth_s=3,
    slow_s=3,
    purchase_s=5,
    bare_s=3,
    stored=1_000,
    copies=9,
    statement_lines=20_000,
    differences=5,
)


def of_ledger(folder: Path, scale: Scale) -> list[Line]:
    """Transfers within the ledger, batched and not."""
    with _server(folder) as server:
        shards = {"s0": ShardSettings(live=server.create_database("bench_ledger"))}
        samples = loop.run(ledger.run(shards, scale.rounds, scale.ledger_s))
    lines = []
    for accounts in ledger.PICKS:
        ways = {way: samples[accounts, way] for way in (ledger.BASELINE, ledger.EXECUTOR)}
        lines += _compared(f"ledger transfer, {accounts}", ways)
    return lines


def of_debit(folder: Path, scale: Scale) -> list[Line]:
    """Debits of one account with a floor, batched and not."""
    with _server(folder) as server:
        shards = {"s0": ShardSettings(live=server.create_database("bench_debit"))}
        samples = loop.run(debits.run(shards, scale.rounds, scale.ledger_s))
    report.say("every debit is in the balance, and none went below the floor")
    return _compared("debit of one hot account", samples)


def of_grpc(folder: Path, scale: Scale) -> list[Line]:
    """Transfers by balance through gRPC, with nothing but pay_core running."""
    loads = [msgspec.structs.replace(load, seconds=scale.grpc_s) for load in (transfers.UNARY, transfers.BATCH)]
    samples: defaultdict[transfers.Load, list[Sample]] = defaultdict(list)
    with running_stack(folder, buffer_pool_mb=BUFFER_POOL_MB) as stack:
        with payments.pay_core(stack) as stub:
            payments.fund(stub)
        for name in stack.running():
            if name in SERVICES and name != "pay_core":
                stack.stop(name)
        address = stack.settings.addresses["pay_core"]
        for _ in range(scale.rounds):
            for load in loads:
                samples[load].append(transfers.measure(address, load).sample)
    return [
        Line("transfer by balance through gRPC", _how(load.batch, load.callers), median(runs))
        for load, runs in samples.items()
    ]


def of_operations(folder: Path, scale: Scale) -> list[Line]:
    """Each operation of pay_core until it has ended, on the full stack."""
    pace = msgspec.structs.replace(operations.PACE, seconds=scale.operation_s)
    runs: defaultdict[str, list[Measured]] = defaultdict(list)
    with running_stack(folder, buffer_pool_mb=BUFFER_POOL_MB) as stack:
        refunded = operations.prepare(stack)
        counters.settle(stack)
        for _ in range(scale.rounds):
            for kind in operations.KINDS:
                runs[kind].append(operations.measure(stack, kind, pace, refunded.get(kind, [])))
        _check(stack)
    count = sum(run.outcome.count for found in runs.values() for run in found)
    report.say(f"{count} operations have all ended, and every invariant holds")
    how = f"{_how(pace.batch, pace.callers)}, at most {pace.under_way} under way"
    return [Line(operations.KINDS[kind].title, how, _median(found), _cpu(found)) for kind, found in runs.items()]


def of_tree(folder: Path, scale: Scale) -> list[Line]:
    """Whole orders by any of their ids."""
    loads = [msgspec.structs.replace(load, seconds=scale.tree_s) for load in (tree.ALONE, tree.CROWD)]
    found: defaultdict[int, list[Measured]] = defaultdict(list)
    with running_stack(folder, buffer_pool_mb=BUFFER_POOL_MB) as stack:
        orders = tree.prepare(stack)
        for _ in range(scale.rounds):
            for load in loads:
                load = msgspec.structs.replace(load, ids=orders.ids)
                found[load.callers].append(tree.measure(stack, load))
    what = f"GetTradeTree, {tree.REFUNDS} refunds, {orders.bytes_per_tree / 1000:.0f} kB"
    return [Line(what, _how(1, callers), _median(runs), _cpu(runs)) for callers, runs in found.items()]


def of_growth(folder: Path, scale: Scale) -> list[Line]:
    """The cost of a transfer with little and with much stored."""
    with running_stack(folder, buffer_pool_mb=GROWTH_BUFFER_POOL_MB) as stack:
        growth.prepare(stack, scale.stored)
        config = growth.grow(stack, scale.copies)
        places = [growth.serve(each, folder / f"growth-{each.stem}.log") for each in (stack.config, config)]
        try:
            runs: list[list[Cost]] = [[], []]
            for place in places:  # what is compiled, cached or read in once belongs to no payment
                growth.measure(stack, place, scale.growth_s)
            for _ in range(scale.rounds):
                for place, costs in zip(places, runs, strict=True):
                    costs.append(growth.measure(stack, place, scale.growth_s))
        finally:
            for place in places:
                growth.stop(place)
    base_ms = statistics.median(cost.all_ms for cost in runs[0])
    lines = []
    for place, costs in zip(places, runs, strict=True):
        all_ms, core_ms, databases_ms = (
            statistics.median(values)
            for values in zip(*((cost.all_ms, cost.pay_core_ms, cost.databases_ms) for cost in costs), strict=True)
        )
        note = (
            f"{all_ms:.2f} ms CPU ({core_ms:.2f} pay_core, {databases_ms:.2f} databases): "
            f"{all_ms / base_ms:.2f} times; {place.megabytes:,} MB"
        )
        how = _how(transfers.BATCH.batch, transfers.BATCH.callers)
        sample = median([cost.outcome.sample for cost in costs])
        lines.append(Line(f"transfer with {place.payments:,} payments stored", how, sample, note))
    return lines


def of_slow_channel(folder: Path, scale: Scale) -> list[Line]:
    """A fast channel alone, and beside a slow one that is flooded."""
    pace = msgspec.structs.replace(slow_channel.PACE, seconds=scale.slow_s)
    alone: list[Steady] = []
    beside: list[Beside] = []
    with running_stack(folder, buffer_pool_mb=BUFFER_POOL_MB) as stack, slow_channel.two_providers(stack):
        for _ in range(scale.rounds):
            alone.append(slow_channel.measure_alone(stack, pace))
            beside.append(slow_channel.measure_beside(stack, pace))
    base, flooded = (median([run.outcome.sample for run in runs]) for runs in (alone, [run.fast for run in beside]))
    what = f"order by a channel of {slow_channel.FAST_MS} ms"
    how = f"{_how(pace.batch, pace.callers)}, at most {pace.under_way} under way"
    # Of each round by itself: whatever else the machine does falls on both runs of a round alike.
    pairs = [(one.outcome.sample, other.fast.outcome.sample) for one, other in zip(alone, beside, strict=True)]
    rate, p99 = (
        statistics.median(ratios)
        for ratios in zip(*((b.per_second / a.per_second, b.p99_ms / a.p99_ms) for a, b in pairs), strict=True)
    )
    share = f"{rate:.2f} times that, p99 {p99:.2f} times"
    refused = median([run.slow.refused_submit for run in beside])
    counts = ", ".join(f"{run.slow.accepted} taken, {run.slow.refused} refused" for run in beside)
    report.say(f"of the flood: {counts}")
    bound = f"{slow_channel.IN_FLIGHT} under way, {slow_channel.QUEUE} waiting"
    taken = median([run.slow.submit for run in beside])
    return [
        Line(what, f"alone: {how}", base, _submits(alone)),
        Line(what, "the same beside a flooded one of 10 s", flooded, f"{share}; {_submits([r.fast for r in beside])}"),
        Line("Submit to the flooded channel", f"100 a second, taken or refused; {bound}", taken),
        Line("Submit to the flooded channel", "those refused: CHANNEL_BUSY", refused),
    ]


def of_purchase(folder: Path, scale: Scale) -> list[Line]:
    """Purchases by card, end to end, beside a script that only writes their rows."""
    paces = [msgspec.structs.replace(pace, seconds=scale.purchase_s) for pace in (purchases.UNARY, purchases.BATCH)]
    samples: defaultdict[Pace, list[Sample]] = defaultdict(list)
    bare_samples: list[Sample] = []
    paid = 0
    with running_stack(folder, buffer_pool_mb=BUFFER_POOL_MB) as stack:
        sampled = bare.sample(stack)
        file = folder / "sampled"
        file.write_bytes(msgspec.msgpack.encode(sampled))
        loop.run(bare.make_scratch(sampled))
        for _ in range(scale.rounds):
            for pace in paces:
                outcome = purchases.measure(stack.config, pace)
                samples[pace].append(outcome.sample)
                paid += outcome.count
                counters.settle(stack)
            bare_samples.append(bare.measure(file, scale.bare_s))
        _check(stack)
    report.say(f"{paid} purchases, all PAID, and every invariant holds")
    alone = median(bare_samples)
    lines = []
    for pace, runs in samples.items():
        found = median(runs)
        share = f"{found.per_second / alone.per_second:.0%} of the bare script"
        how = f"{_how(pace.batch, pace.callers)}, at most {pace.under_way} under way"
        lines.append(Line("purchase by card, accepted to PAID", how, found, share))
    rows = f"{sampled.rows_per_purchase():.1f} rows a purchase; times are of {sampled.purchases} purchases"
    lines.append(Line("the same rows by a bare script", f"{bare.PER_TRANSACTION} a transaction", alone, rows))
    return lines


def of_statements(folder: Path, scale: Scale) -> list[Line]:
    """A statement of as many lines as there are orders, imported once."""
    with _server(folder) as server:
        urls = {shard: server.create_database(f"bench_recon_{shard}") for shard in ("s0", "s1")}
        planned = statements.prepare(urls, folder, scale.statement_lines, scale.differences)
        figures = statements.measure(urls, folder, planned)
    report.say(f"{sum(planned.breaks.values())} planned differences, and exactly those were found")
    phases = ", ".join(f"{seconds:.0f} s {phase}" for phase, seconds in figures.phases_s.items())
    memory = f"peak {figures.peak_bytes / 2**20:.0f} MiB, {figures.idle_bytes / 2**20:.0f} before"
    note = f"{memory}; {phases}; {1e6 * figures.cpu_s / figures.lines:.0f} µs CPU a line"
    sample = Sample(figures.lines / figures.seconds, 1000 * figures.seconds, 1000 * figures.seconds)
    what = f"statement of {figures.lines:,} lines against {planned.orders:,} orders"
    return [Line(what, f"CSV of {figures.bytes / 1e6:.0f} MB by RPC, once", sample, note)]


# In the order of the table.
PARTS: dict[str, Callable[[Path, Scale], list[Line]]] = {
    "ledger": of_ledger,
    "debit": of_debit,
    "grpc": of_grpc,
    "operations": of_operations,
    "tree": of_tree,
    "growth": of_growth,
    "slow_channel": of_slow_channel,
    "purchase": of_purchase,
    "statements": of_statements,
}


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[MariaDbServer]:
    server = MariaDbServer(folder / "mariadb", buffer_pool_mb=BUFFER_POOL_MB)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _compared(what: str, ways: dict[str, list[Sample]]) -> list[Line]:
    base, batched = median(ways[ledger.BASELINE]), median(ways[ledger.EXECUTOR])
    times = batched.per_second / base.per_second
    return [
        Line(what, f"{ledger.BASELINE}, {ledger.CALLERS} callers", base),
        Line(what, f"{ledger.EXECUTOR}, {ledger.CALLERS} callers", batched, f"{times:.1f} times that"),
    ]


def _submits(runs: list[Steady]) -> str:
    found = median([run.submit for run in runs])
    return f"Submit: p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms"


def _median(runs: list[Measured]) -> Sample:
    return median([run.outcome.sample for run in runs])


def _cpu(runs: list[Measured]) -> str:
    """The medians of what runs cost."""
    shares = [run.shares() for run in runs]
    found = {part: statistics.median(each[part] for each in shares) for part in shares[0]}
    parts = ", ".join(f"{found[part]:.2f} {part}" for part in found if part != "all" and found[part] >= CPU_MS_MIN)
    return f"{found['all']:.2f} ms CPU ({parts})"


def _how(batch: int, callers: int) -> str:
    if batch == 1:
        return f"unary, {callers} callers" if callers > 1 else "unary, 1 caller"
    return f"Batch of {batch}, {callers} callers"


def _check(stack: Stack) -> None:
    """Every invariant over what the load has left behind; LoadFailed where one is violated."""
    time.sleep(RECON_HOLDS_S)  # what the last payments told is held for as long
    command = [sys.executable, "-m", "meshctl", "check", "--settled", "--config", str(stack.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S)
    if done.returncode != 0:
        raise LoadFailed(f"meshctl check found violations:\n{done.stdout}{done.stderr}")
