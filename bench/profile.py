"""Where the time of a purchase goes: CPU and work per purchase of every process, and the functions that use it.

``python -m bench.profile [--unary] [--seconds N] [--out FOLDER]`` runs the purchase load twice on a private stack:
once undisturbed, to read what each process used and did, and once while py-spy samples each Python process.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer
from rich.console import Console
from rich.table import Table

from bench import children, counters, purchases
from meshctl.processes import require_program
from meshctl.settings import SANDBOX, SERVICES
from meshctl.stack import Stack, running_stack

SAMPLES_PER_SECOND = 100
PYTHON = (*SERVICES, SANDBOX)
BUFFER_POOL_MB = 256
WIDTH = 170

_LINE = re.compile(r":\d+\)$")
# Below these every stack of the main thread looks alike.
_STARTING = ("<frozen", "meshctl/", "typer/", "uvloop/__init__", "asyncio/runners", "paykit/rpc/loop", "threading")

Samples = Counter[tuple[str, ...]]  # stack, outermost first, without lines -> how often it was seen


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    unary: Annotated[bool, typer.Option("--unary", help="Single calls instead of Batch messages of 100.")] = False,
    seconds: Annotated[float, typer.Option(help="How long each of the two runs lasts, after its warming.")] = 15,
    top: Annotated[int, typer.Option(help="How many functions to list of each process.")] = 25,
    out: Annotated[
        Path | None, typer.Option(help="Where the stacks (py-spy raw, for flame graphs) are kept.", show_default=False)
    ] = None,
) -> None:
    """Print CPU and work per purchase by process, then where each Python process spends its time."""
    load = msgspec.structs.replace(purchases.UNARY if unary else purchases.BATCH, seconds=seconds)
    console = Console(width=WIDTH)
    with tempfile.TemporaryDirectory(prefix="paymesh-bench-") as folder:
        kept = out or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        with running_stack(Path(folder) / "stack", buffer_pool_mb=BUFFER_POOL_MB) as stack:
            for table in undisturbed(stack, load):
                console.print(table)
            recordings = sampled(stack, load, kept)
        for name, recording in recordings.items():
            samples = read(recording)
            console.print(parts_table(name, samples), functions_table(name, samples, top))


def undisturbed(stack: Stack, load: purchases.Load) -> list[Table]:
    """Runs the load: CPU milliseconds per purchase by process, and what each did per purchase."""
    cpu_before_s, work_before = counters.cpu_s(stack), counters.work(stack)
    outcome = purchases.measure(stack.config, load)
    cpu_after_s, work_after = counters.cpu_s(stack), counters.work(stack)
    used_s = {name: cpu_after_s[name] - cpu_before_s[name] for name in cpu_after_s} | {"load": outcome.cpu_s}
    return [
        _cpu_table(used_s, outcome),
        _work_table(counters.since(work_before, work_after), outcome.paid),
    ]


def _cpu_table(used_s: dict[str, float], outcome: purchases.Outcome) -> Table:
    sample, total_s, cores = outcome.sample, sum(used_s.values()), psutil.cpu_count() or 1
    table = Table(
        title=f"{outcome.paid} purchases, {sample.per_second:.0f} PAID/s, "
        f"p50 {sample.p50_ms:.0f} ms, p99 {sample.p99_ms:.0f} ms"
    )
    table.add_column("process")
    table.add_column("CPU ms per purchase", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in sorted(used_s.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{1000 * seconds / outcome.paid:.2f}", f"{seconds / total_s:.0%}")
    each_ms = 1000 * total_s / outcome.paid
    table.add_row(f"all (at most {1000 * cores / each_ms:.0f}/s on {cores} cores)", f"{each_ms:.2f}", "")
    return table


def _work_table(done: dict[tuple[str, str], float], purchases_done: int) -> Table:
    table = Table(title="Work per purchase")
    for title in ("process", "what", "per purchase"):
        table.add_column(title, justify="right" if title == "per purchase" else "left")
    for (process, what), count in done.items():
        table.add_row(process, what, f"{count / purchases_done:.2f}")
        if what == "transactions" and count:
            table.add_row(process, "commands in a transaction", f"{done[process, 'commands'] / count:.1f}")
    return table


def sampled(stack: Stack, load: purchases.Load, folder: Path) -> dict[str, Path]:
    """Runs the load while py-spy samples each Python process; its collapsed stacks, by process."""
    records = stack.running()
    child = purchases.start(stack.config, load)
    time.sleep(load.warm_s)  # py-spy shall see the steady part, and there is no event that tells its begin
    spies = {name: _spy(records[name].pid, folder / f"{name}.raw", load.seconds) for name in PYTHON}
    spies["load"] = _spy(child.pid, folder / "load.raw", load.seconds)
    children.result(child, purchases.Outcome, load.warm_s + load.seconds)
    for name, spy in spies.items():
        errors = spy.communicate(timeout=60)[1]
        if spy.returncode != 0:
            raise children.LoadFailed(f"py-spy on {name}: {errors.decode(errors='replace')}")
    return {name: folder / f"{name}.raw" for name in spies}


def read(recording: Path) -> Samples:
    """What py-spy wrote (``frame;frame;frame count`` a line)."""
    samples: Samples = Counter()
    for line in recording.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        samples[tuple(_LINE.sub(")", frame) for frame in stack.split(";") if frame)] += int(count)
    return samples


def parts_table(name: str, samples: Samples) -> Table:
    """The share of each package in a process's busy samples, by whose code was running, whoever called it."""
    parts: Counter[str] = Counter()
    for stack, count in samples.items():
        parts[_part(stack)] += count
    total = parts.total()
    table = Table(title=f"{name}: {total} busy samples, by package", title_justify="left")
    table.add_column("share", justify="right", min_width=6)
    table.add_column("package")
    for part, count in parts.most_common(18):
        table.add_row(f"{count / total:.1%}", part)
    return table


def functions_table(name: str, samples: Samples, top: int) -> Table:
    """The functions of a process by their own time, and by the time with all they call."""
    own, whole = _tally(samples, lambda stack: stack[-1:]), _tally(samples, set)
    total = max(samples.total(), 1)
    table = Table(title=f"{name}, by function", title_justify="left")
    for title in ("own", "function", "whole", "function"):
        is_share = title != "function"
        table.add_column(title, justify="right" if is_share else "left", min_width=6, no_wrap=True, ratio=1 - is_share)
    for (mine, own_count), (theirs, whole_count) in zip(own.most_common(top), whole.most_common(top), strict=False):
        table.add_row(f"{own_count / total:.1%}", mine, f"{whole_count / total:.1%}", theirs)
    return table


def _tally(samples: Samples, chosen: Callable[[tuple[str, ...]], Iterable[str]]) -> Counter[str]:
    tally: Counter[str] = Counter()
    for stack, count in samples.items():
        for frame in chosen(stack):
            if len(stack) == 1 or not any(f"({start}" in frame for start in _STARTING) or frame == stack[-1]:
                tally[frame] += count
    return tally


def _part(stack: tuple[str, ...]) -> str:
    """The package of the innermost frame; two levels deep for our own."""
    if not stack:
        return "native threads"
    frame = stack[-1]
    place = frame[frame.rfind("(") + 1 : -1]
    if place.startswith(("asyncio/runners", "uvloop/")):
        return "event loop, gRPC core and system calls (native)"
    parts = place.split("/")
    if parts[0] == "paykit":
        return "/".join(parts[:2])
    return parts[0]


def _spy(pid: int, output: Path, seconds: float) -> subprocess.Popen[bytes]:
    program = require_program("py-spy (Python)", str(Path(sys.executable).with_name("py-spy")), "py-spy")
    command = [program, "record", "--pid", str(pid), "--duration", str(int(seconds)), "--format", "raw"]
    command += ["--rate", str(SAMPLES_PER_SECOND), "--nonblocking", "--output", str(output)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


if __name__ == "__main__":
    app()
