"""A provider's statement against as many channel orders: how fast it is imported and matched, and in how much memory.

Orders and file are made by this process beside the one that is measured: a recon as it always runs, on MariaDB, which
is sent the file by RPC. The file differs from the orders in a few hundred places that are known, and exactly those must
be found.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select

from bench import children
from bench.children import LoadFailed
from bench.fill import connect
from meshctl.layout import HOST, write_configuration
from meshctl.processes import ProcessRecord, free_ports, start_process, wait_until
from meshctl.stack import is_serving
from paykit.ids import SLOT_COUNT, new_id
from paykit.rpc import loop
from paykit.rpc.channels import Channels
from paykit.settings import ShardSettings
from paykit.store.migrate import migrate
from paykit.store.statements import insert_rows
from paymesh.recon.v1 import statement_service_pb2, statement_service_pb2_grpc
from recon.tables import Break, RecordedOrder, StatementLine

SERVICE = "recon"
CHANNEL = "bench_card"
DAY, EARLY_DAY = "2026-11-29", "2026-11-20"
DAY_MS = 1_795_910_400_000  # 2026-11-29, 00:00 UTC
DIFFERENCES = (
    "MISSING_THERE",
    "MISSING_HERE",
    "AMOUNT_MISMATCH",
    "CURRENCY_MISMATCH",
    "STATUS_MISMATCH",
    "DUPLICATE",
    "LATE",
    "UNEXPLAINED",
)
START_TIMEOUT_S = 60
STOP_GRACE_S = 40
TIMEOUT_S = 7_200.0

_ROWS_AT_ONCE = 2_000
_CHUNK_BYTES = 1 << 18
_HEADING = "line_id,date,amount,currency,reference,provider_reference,fee"
_COLUMNS = _HEADING.split(",")


class Planned(msgspec.Struct, frozen=True):
    """What was made: the file, and (type of break, what it is about where that is known) -> how many."""

    file: Path
    lines: int
    orders: int
    breaks: Mapping[tuple[str, str], int]


class Figures(msgspec.Struct, frozen=True):
    """One import. Seconds by phase, and the most memory the process ever had (its resident set, in bytes)."""

    lines: int
    bytes: int
    phases_s: Mapping[str, float]
    peak_bytes: int
    idle_bytes: int
    cpu_s: float

    @property
    def seconds(self) -> float:
        """All phases."""
        return sum(self.phases_s.values())


class Case(msgspec.Struct, frozen=True):
    """One order, or a line without one: what is stored of it, and what the file says."""

    order: RecordedOrder | None
    rows: Sequence[str]
    difference: str = ""
    about: str = ""


def cases(count: int, each: int, seed: int) -> Iterator[Case]:
    """``count`` orders in the order of time, and among them ``each`` of every difference."""
    draw = random.Random(seed)
    wrong = [difference for difference in DIFFERENCES for _ in range(each)]
    draw.shuffle(wrong)
    chosen = dict(zip(sorted(draw.sample(range(count), len(wrong))), wrong, strict=True))
    for number in range(count):
        yield _case(draw, number, count, chosen.get(number, ""))


def _case(draw: random.Random, number: int, count: int, difference: str) -> Case:
    slot, at_ms = draw.randrange(SLOT_COUNT), DAY_MS + number * 86_400_000 // count
    id_ = new_id("chn", slot, at_ms, draw.getrandbits)
    amount_minor = draw.randrange(100, 1_000_000)
    reference, line_id = f"prv{number:012d}", f"L{number:012d}"

    def row(**changes: object) -> str:
        said = {"line_id": line_id, "amount": amount_minor, "currency": "EUR", "reference": id_} | changes
        fee = amount_minor // 100
        return f"{said['line_id']},{DAY},{said['amount']},{said['currency']},{said['reference']},{reference},{fee}"

    order = RecordedOrder(
        id=id_,
        slot=slot,
        biz_id="biz" + id_[3:],
        payment_id="pay" + id_[3:],
        instruction_id="ins" + id_[3:],
        channel=CHANNEL,
        merchant=f"merchant-{number % 97}",
        kind="CHARGE",
        state="FAILED" if difference == "STATUS_MISMATCH" else "SUCCEEDED",
        currency="EUR",
        amount_minor=amount_minor,
        provider_reference=reference,
        failure_reason="DECLINED" if difference == "STATUS_MISMATCH" else "",
        finished_at_ms=at_ms,
        business_date=EARLY_DAY if difference in ("LATE", "MISSING_THERE") else DAY,
        settlement="OPEN",
        statement_line_id=None,
        break_id=None,
    )
    match difference:
        case "MISSING_THERE":
            return Case(order, [], difference, id_)
        case "MISSING_HERE":
            return Case(None, [row()], difference, id_)
        case "AMOUNT_MISMATCH":
            return Case(order, [row(amount=amount_minor + 1)], difference, id_)
        case "CURRENCY_MISMATCH":
            return Case(order, [row(currency="USD")], difference, id_)
        case "DUPLICATE":
            return Case(order, [row(), row(line_id=f"{line_id}D")], difference, id_)
        case "UNEXPLAINED":
            return Case(None, [row(reference="")], difference, "")
        case _:
            return Case(order, [row()], difference, id_)


def prepare(urls: Mapping[str, str], folder: Path, count: int, each: int, seed: int = 1) -> Planned:
    """Makes the schema at ``urls`` (by shard), the orders in it and the file in ``folder``."""
    loop.run(migrate(SERVICE, {shard: ShardSettings(live=url) for shard, url in urls.items()}, 1))
    file, names = folder / "statement.csv", list(urls)
    waiting: dict[str, list[RecordedOrder]] = {name: [] for name in names}
    breaks: Counter[tuple[str, str]] = Counter()
    lines = orders = 0
    connections = {name: connect(url) for name, url in urls.items()}
    opened = {name: connection.__enter__() for name, connection in connections.items()}
    try:
        with file.open("w") as out:
            out.write(f"{_HEADING}\n")
            for case in cases(count, each, seed):
                for text in case.rows:
                    out.write(f"{text}\n")
                lines += len(case.rows)
                if case.difference:
                    breaks[case.difference, case.about] += 1
                if case.order is not None:
                    orders += 1
                    name = names[case.order.slot * len(names) // SLOT_COUNT]
                    waiting[name].append(case.order)
                    if len(waiting[name]) >= _ROWS_AT_ONCE:
                        insert_rows(opened[name], RecordedOrder, waiting[name])
                        waiting[name] = []
        for name, rows in waiting.items():
            if rows:
                insert_rows(opened[name], RecordedOrder, rows)
    finally:
        for connection in connections.values():
            connection.__exit__(None, None, None)
    return Planned(file, lines, orders, breaks)


def configure(urls: Mapping[str, str], folder: Path) -> Path:
    """The settings of a recon on these databases, which nobody tells anything."""
    (port,) = free_ports([0])
    columns: dict[str, Any] = {column: column for column in _COLUMNS}
    config = {
        "environment": "production",
        "log_level": "warning",
        "bus": {"kind": "embedded", "path": str(folder / "bus")},
        "addresses": dict.fromkeys(("trade_core", "pay_core", "channel_gateway"), f"{HOST}:1"),
        SERVICE: {
            "listen": f"{HOST}:{port}",
            "shards": {shard: {"live": url} for shard, url in urls.items()},
            "executor": {"lanes": 1},
            "statements": {
                "spool_path": str(folder),
                "channels": {CHANNEL: {"format": "CSV", "csv": {"columns": columns, "amounts": "minor"}}},
            },
        },
    }
    config["addresses"][SERVICE] = f"{HOST}:{port}"  # type: ignore[index]
    path = folder / "recon.toml"
    write_configuration(path, config)
    return path


def serve(config: Path, address: str, log: Path) -> ProcessRecord:
    """Starts the recon that is measured."""
    command = [sys.executable, "-m", "meshctl", "serve", SERVICE, "--config", str(config)]
    environment = os.environ | {"PYTHONPATH": str(children.ROOT)}
    record = start_process(SERVICE, command, log, environment=environment, tied=True)
    wait_until(lambda: is_serving(address), record, log, START_TIMEOUT_S)
    return record


def measure(urls: Mapping[str, str], folder: Path, planned: Planned) -> Figures:
    """Imports the file by RPC into a recon that is started for it, and checks what became of it."""
    config = configure(urls, folder)
    address = _address(config)
    record = serve(config, address, folder / "recon.log")
    try:
        idle_bytes = peak_bytes(record.pid)
        before_s = _cpu_s(record)
        phases_s = loop.run(_import(address, planned))
        figures = Figures(
            lines=planned.lines,
            bytes=planned.file.stat().st_size,
            phases_s=phases_s,
            peak_bytes=peak_bytes(record.pid),
            idle_bytes=idle_bytes,
            cpu_s=_cpu_s(record) - before_s,
        )
    finally:
        record.stop(STOP_GRACE_S)
    check(urls, planned)
    return figures


def _address(config: Path) -> str:
    from meshctl.settings import load_mesh

    return load_mesh(config).service(SERVICE).listen


async def _import(address: str, planned: Planned) -> dict[str, float]:
    channels = Channels({SERVICE: address})
    stub = statement_service_pb2_grpc.StatementServiceStub(channels.get(SERVICE))
    phases_s: dict[str, float] = {}
    since_s = time.perf_counter()
    phase, done = "RECEIVING", None
    try:
        async for response in stub.ImportStatement(_parts(planned.file), timeout=TIMEOUT_S):
            done = response
            now = statement_service_pb2.ImportPhase.Name(response.phase).removeprefix("IMPORT_PHASE_")
            if now != phase:
                at_s = time.perf_counter()
                phases_s[phase.lower()] = phases_s.get(phase.lower(), 0.0) + at_s - since_s
                phase, since_s = now, at_s
    finally:
        await channels.close()
    if done is None or phase != "DONE" or done.statement.line_count != planned.lines:
        raise LoadFailed(f"the import ended in {phase}, with {done}")
    return phases_s


async def _parts(file: Path) -> AsyncIterator[statement_service_pb2.ImportStatementRequest]:
    request = statement_service_pb2.ImportStatementRequest
    header = statement_service_pb2.ImportStatementHeader(channel=CHANNEL, business_date=DAY, file_name=file.name)
    yield request(header=header)
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            yield request(chunk=chunk)


def check(urls: Mapping[str, str], planned: Planned) -> None:
    """That exactly the planned differences are open breaks, and all other orders are settled; LoadFailed."""
    found: Counter[tuple[str, str]] = Counter()
    settled: Counter[str] = Counter()
    lines = 0
    for url in urls.values():
        with connect(url) as connection:
            breaks, orders = Break.__table__.c, RecordedOrder.__table__.c
            for type_, order_id in connection.execute(select(breaks.type, breaks.channel_order_id)):
                found[type_, order_id] += 1
            for (settlement,) in connection.execution_options(stream_results=True).execute(select(orders.settlement)):
                settled[settlement] += 1
        with connect(url) as connection:
            lines += len(connection.execute(select(StatementLine.__table__.c.line_no)).all())
    if found != Counter(planned.breaks):
        raise LoadFailed(f"other differences than planned: {(found - Counter(planned.breaks)).most_common(5)} …")
    of_orders = ("AMOUNT_MISMATCH", "CURRENCY_MISMATCH", "STATUS_MISMATCH", "LATE", "MISSING_THERE")
    broken = sum(count for (type_, _), count in planned.breaks.items() if type_ in of_orders)
    if settled != Counter({"AGREED": planned.orders - broken, "BROKEN": broken}):
        raise LoadFailed(f"orders are {settled}")
    if lines != planned.lines:
        raise LoadFailed(f"{lines} lines are stored, the file has {planned.lines}")


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had: the high-water mark of its resident set (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise LoadFailed(f"the system does not tell the memory of process {pid}")


def _cpu_s(record: ProcessRecord) -> float:
    process = record.process()
    if process is None:
        raise LoadFailed("recon has ended")
    times = process.cpu_times()
    return float(times.user + times.system)
