"""``python -m bench``: every figure of docs/performance.md, on private servers that end with it.

Runs are interleaved, so that whatever else the machine does falls on all alike, and of each figure the median counts.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from bench import report
from bench.parts import FULL, PARTS, QUICK
from bench.report import Line

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    quick: Annotated[bool, typer.Option("--quick", help="One short round: shows that it works, measures little.")] = (
        False
    ),
    only: Annotated[str, typer.Option(help=f"Some parts alone, separated by commas: {', '.join(PARTS)}.")] = "",
) -> None:
    """Measure, print the table and, where all of it was measured in full, write it into docs/performance.md."""
    parts = only.split(",") if only else list(PARTS)
    if unknown := set(parts) - set(PARTS):
        raise typer.BadParameter(f"unknown part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    scale = QUICK if quick else FULL
    lines: list[Line] = []
    for part, measure in PARTS.items():
        if part in parts:
            report.say(f"{part} …")
            with tempfile.TemporaryDirectory(prefix="paymesh-bench-") as folder:
                lines += measure(Path(folder), scale)
    report.show(lines, scale.rounds)
    if not quick and set(parts) == set(PARTS):
        report.write(lines, scale.rounds, shlex.join(["python", "-m", "bench", *sys.argv[1:]]))


if __name__ == "__main__":
    app()
