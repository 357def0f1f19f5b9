"""Where the time of a purchase goes: CPU and work per purchase of every process, and the functions that use it.

``python -m bench.profile [--unary] [--seconds N] [--out FOLDER]`` runs the purchase load three times on a private
stack: to warm it, undisturbed, to read what each process used and did, and while py-spy samples each Python process.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer
from rich.console import Console
from rich.table import Table

from bench import children, counters, purchases, report
from bench.flow import Outcome, Pace
from meshctl.processes import require_program
from meshctl.settings import SANDBOX, SERVICES
from meshctl.stack import Stack, running_stack

SAMPLES_PER_SECOND = 100
PYTHON = (*SERVICES, SANDBOX)
SAMPLED = (*PYTHON, "load")
CPU_HEADINGS = ("process", "CPU ms per purchase", "share")
PARTS_HEADINGS = ("whose code", "all", *SAMPLED)
PARTS_MAX = 20
BUFFER_POOL_MB = 256
WIDTH = 170
WARMING_S = 5

_LINE = re.compile(r":\d+\)$")
# Below these every stack of the main thread looks alike.
_STARTING = ("<frozen", "meshctl/", "typer/", "uvloop/__init__", "asyncio/runners", "paykit/rpc/loop", "threading")
# The thread that serves metrics: py-spy takes its waiting for work.
_WAITING = "serve_forever"

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
    write: Annotated[bool, typer.Option("--write", help="Put the two CPU tables into docs/performance.md.")] = False,
) -> None:
    """Print CPU and work per purchase by process, then where each Python process spends its time."""
    pace = msgspec.structs.replace(purchases.UNARY if unary else purchases.BATCH, seconds=seconds)
    console = Console(width=WIDTH)
    with tempfile.TemporaryDirectory(prefix="paymesh-bench-") as folder:
        kept = out or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        with running_stack(Path(folder) / "stack", buffer_pool_mb=BUFFER_POOL_MB) as stack:
            # What is compiled, cached or made once belongs to no purchase.
            purchases.measure(stack.config, msgspec.structs.replace(pace, seconds=WARMING_S))
            used = undisturbed(stack, pace)
            console.print(used.cpu_table(), used.work_table())
            samples = {name: read(recording) for name, recording in sampled(stack, pace, kept).items()}
        parts = parts_rows(used, samples)
        console.print(_table("CPU ms per purchase, by whose code was running", PARTS_HEADINGS, parts))
        for name, found in samples.items():
            console.print(functions_table(name, found, top))
    if write:
        command = shlex.join(["python", "-m", "bench.profile", *sys.argv[1:]])
        processes = report.markdown(CPU_HEADINGS, used.cpu_rows(), figures=CPU_HEADINGS[1:])
        packages = report.markdown(PARTS_HEADINGS, parts, figures=PARTS_HEADINGS[1:])
        intro = f"{report.made_by(command)}: {used.headline()}.\n{report.machine()}"
        report.put("profile", f"{intro}\n\n{processes}\n\n{packages}")


class Used(msgspec.Struct, frozen=True):
    """What a run used and did: CPU seconds by process, and the services' and servers' own counts."""

    outcome: Outcome
    cpu_s: dict[str, float]
    done: dict[tuple[str, str], float]

    def cpu_ms(self, process: str) -> float:
        """CPU milliseconds of a process per purchase."""
        return 1000 * self.cpu_s[process] / self.outcome.count

    def headline(self) -> str:
        """The run in a line."""
        sample = self.outcome.sample
        return (
            f"{self.outcome.count} purchases, {sample.per_second:.0f} PAID/s, "
            f"p50 {sample.p50_ms:.0f} ms, p99 {sample.p99_ms:.0f} ms"
        )

    def cpu_rows(self) -> list[tuple[str, str, str]]:
        """Process, CPU milliseconds per purchase, share; all of them last, with the rate that the cores allow."""
        total_ms, cores = 1000 * sum(self.cpu_s.values()) / self.outcome.count, psutil.cpu_count() or 1
        names = sorted(self.cpu_s, key=lambda name: -self.cpu_s[name])
        rows = [(name, f"{self.cpu_ms(name):.2f}", f"{self.cpu_ms(name) / total_ms:.0%}") for name in names]
        return [*rows, (f"all: at most {1000 * cores / total_ms:.0f}/s on {cores} cores", f"{total_ms:.2f}", "100%")]

    def cpu_table(self) -> Table:
        """For the terminal."""
        return _table(self.headline(), CPU_HEADINGS, self.cpu_rows())

    def work_table(self) -> Table:
        """What each process did per purchase."""
        rows = []
        for (process, what), count in self.done.items():
            rows.append((process, what, f"{count / self.outcome.count:.2f}"))
            if what == "transactions" and count:
                rows.append((process, "commands in a transaction", f"{self.done[process, 'commands'] / count:.1f}"))
        return _table("Work per purchase", ("process", "what", "per purchase"), rows)


def undisturbed(stack: Stack, pace: Pace) -> Used:
    """Runs the load with nothing beside it."""
    cpu_before_s, work_before = counters.cpu_s(stack), counters.work(stack)
    outcome = purchases.measure(stack.config, pace)
    counters.settle(stack)  # recon goes on a little after the last trade is paid: that belongs to it too
    cpu_after_s, work_after = counters.cpu_s(stack), counters.work(stack)
    used_s = {name: cpu_after_s[name] - cpu_before_s[name] for name in cpu_after_s} | {"load": outcome.cpu_s}
    return Used(outcome, used_s, counters.since(work_before, work_after))


def sampled(stack: Stack, pace: Pace, folder: Path) -> dict[str, Path]:
    """Runs the load while py-spy samples each Python process; its collapsed stacks, by process."""
    records = stack.running()
    child = purchases.start(stack.config, pace)
    time.sleep(pace.warm_s)  # py-spy shall see the steady part, and there is no event that tells its begin
    spies = {name: _spy(records[name].pid, folder / f"{name}.raw", pace.seconds) for name in PYTHON}
    spies["load"] = _spy(child.pid, folder / "load.raw", pace.seconds)
    children.result(child, Outcome, pace.warm_s + pace.seconds)
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
        if _WAITING not in stack:
            samples[tuple(_LINE.sub(")", frame) for frame in stack.split(";") if frame)] += int(count)
    return samples


def parts_rows(used: Used, samples: dict[str, Samples]) -> list[tuple[str, ...]]:
    """CPU milliseconds per purchase, in all processes and in each, by the package of the innermost frame."""
    costs: dict[str, Counter[str]] = {}
    for name, found in samples.items():
        costs[name] = Counter()
        for stack, count in found.items():
            costs[name][_part(stack)] += count
    ms = {
        name: {part: used.cpu_ms(name) * count / cost.total() for part, count in cost.items()}
        for name, cost in costs.items()
    }
    total: defaultdict[str, float] = defaultdict(float)
    for parts in ms.values():
        for part, cost_ms in parts.items():
            total[part] += cost_ms
    return [
        (part, f"{cost_ms:.2f}", *(f"{ms[name].get(part, 0):.2f}" for name in SAMPLED))
        for part, cost_ms in sorted(total.items(), key=lambda item: -item[1])[:PARTS_MAX]
    ]


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


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("process", "what", "whose code") else "right")
    for row in rows:
        table.add_row(*row)
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
    if place.startswith("asyncio/streams"):
        return "asyncio streams (what aiomysql sends and reads by)"
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
