"""The table of figures, for the terminal and for docs/performance.md."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from bench.measure import Sample
from meshctl.processes import require_program
from meshctl.servers import MARIADB_PACKAGE, NATS_PACKAGE

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
HEADINGS = ("measured", "how", "per second", "p50 ms", "p99 ms", "")
LIBRARIES = ("grpcio", "SQLAlchemy", "aiomysql", "nats-py", "uvloop")

_console = Console(width=150)


class Line(NamedTuple):
    """One line of the table."""

    what: str
    how: str
    sample: Sample
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """As text."""
        sample = self.sample
        figures = (f"{sample.per_second:,.0f}", f"{sample.p50_ms:,.1f}", f"{sample.p99_ms:,.1f}")
        return (self.what, self.how, *figures, self.note)


def say(text: str) -> None:
    """A line about what goes on."""
    _console.print(text, highlight=False)


def show(lines: Sequence[Line], rounds: int) -> None:
    """Prints the table."""
    table = Table(title=f"medians of {rounds} interleaved runs" if rounds > 1 else "one short run")
    for heading in HEADINGS:
        is_figure = heading in HEADINGS[2:5]
        table.add_column(heading, justify="right" if is_figure else "left", no_wrap=is_figure)
    for line in lines:
        table.add_row(*line.cells())
    _console.print(table)


def write(lines: Sequence[Line], rounds: int, command: str) -> None:
    """Puts the table into the document, with what made it."""
    table = markdown(HEADINGS, [line.cells() for line in lines], figures=HEADINGS[2:5])
    put("bench", f"{made_by(command)}: medians of {rounds} interleaved runs.\n{machine()}\n\n{table}")


def made_by(command: str) -> str:
    """How a part of the document came about."""
    return f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], figures: Sequence[str]) -> str:
    """A table; the columns named in ``figures`` are set to the right."""
    rule = ["---:" if heading in figures else "---" for heading in headings]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def put(section: str, text: str) -> None:
    """Replaces what stands in the document between the marks of ``section``."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    head, mark, rest = DOCUMENT.read_text().partition(begin)
    _, end_mark, tail = rest.partition(end)
    if not (mark and end_mark):
        raise ValueError(f"{DOCUMENT.name} has no section {section}")
    DOCUMENT.write_text(f"{head}{begin}\n{text}\n{end}{tail}")
    say(f"written into {DOCUMENT.name}")


def machine() -> str:
    """What the figures were taken on."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    servers = ", ".join((_version(MARIADB_PACKAGE, "mariadbd", "mysqld"), _version(NATS_PACKAGE, "nats-server")))
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"Machine: {psutil.cpu_count()} cores ({_processor()}), {memory_gib:.0f} GiB, {platform.system()}; "
        f"Python {platform.python_version()}, {servers}; {libraries}."
    )


def _version(package: str, *names: str) -> str:
    done = subprocess.run(
        [require_program(package, *names), "--version"], capture_output=True, text=True, timeout=10, check=True
    )
    program, _, said = done.stdout.strip().partition(" ")
    words = said.replace("Ver ", "").replace("version ", "").split()
    return f"{Path(program).name.rstrip(':')} {words[0].lstrip('v')}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
