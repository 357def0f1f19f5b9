"""``meshctl trace``: an order's history over all services, as a tree or as a list."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from meshctl.embedded import EmbeddedMesh, log_to_file
from meshctl.settings import SERVICES, MeshSettings, load_mesh
from meshctl.timeline import Record, Timeline, gather
from paykit.money import EXPONENT, format_minor
from paykit.rpc import loop
from paykit.rpc.channels import Channels

EXIT_NOT_FOUND = 1

_GOOD = frozenset({"PAID", "EFFECTIVE", "SUCCEEDED", "APPLIED", "CLOSED", "CAPTURED", "DONE", "RESOLVED"})
_BAD = frozenset({"FAILED", "MISMATCHED", "ORPHANED"})
_DOUBTFUL = frozenset({"UNKNOWN", "REVERSING", "OPEN", "RETURNED"})
_POSTED_MINOR = re.compile(r"/([A-Z]{3}) ([+-]\d+)")


def run(id_: str, config: Path, shadow: bool, is_flat: bool = False) -> int:
    """Prints what was done for ``id_``; 1 where no service knows it.

    The system of ``meshctl demo`` lives only as long as its command: it is started again for the time of the question.
    """
    return loop.run(_run(id_, config, shadow, is_flat))


async def _run(id_: str, config: Path, shadow: bool, is_flat: bool) -> int:
    settings = load_mesh(config)
    timeline = await _gathered(settings, id_, shadow)
    is_asleep = len(timeline.unreachable) == len(SERVICES)
    if is_asleep and settings.bus.kind == "embedded" and config.name == "paymesh.toml":
        log_to_file(config.parent)
        async with EmbeddedMesh(config.parent):
            timeline = await _gathered(settings, id_, shadow)
    console = wide_console()
    for service, why in timeline.unreachable.items():
        console.print(f"[yellow]{service} cannot be asked:[/] {why}", highlight=False)
    if not timeline.entries:
        console.print(f"nothing is known of {id_}", highlight=False)
        return EXIT_NOT_FOUND
    console.print(flat(timeline) if is_flat else tree(timeline))
    return 0


async def _gathered(settings: MeshSettings, id_: str, shadow: bool) -> Timeline:
    channels = Channels(settings.addresses, settings.tls)
    try:
        return await gather(channels, id_, shadow=shadow)
    finally:
        await channels.close()


def wide_console() -> Console:
    """A console whose lines are as long as they need to be: ids that are cut or wrapped cannot be searched for."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 240
    return console


def tree(timeline: Timeline) -> Tree:
    """Every record under the one it belongs to: trade → attempts → payments → instructions → channel orders."""
    records = timeline.records()
    start_ms = min(entry.time.ToMilliseconds() for entry in timeline.entries)
    began = timeline.entries[0].time.ToDatetime().isoformat(sep=" ", timespec="milliseconds")
    root = Tree(Text.assemble((" ".join(timeline.biz_ids), "bold"), (f"  from {began} UTC", "dim")))
    known = {record.id for record in records}
    branches: dict[str, Tree] = {}

    def branch(record: Record) -> Tree:
        if record.id not in branches:
            parent = by_id[record.parent_id] if record.parent_id in known - {record.id} else None
            above = root if parent is None else branch(parent)
            branches[record.id] = above.add(_label(record, timeline.about.get(record.id, ""), start_ms))
        return branches[record.id]

    by_id = {record.id: record for record in records}
    for record in records:
        branch(record)
    return root


def flat(timeline: Timeline) -> Table:
    """Every change in the order of time, one line each."""
    start_ms = min(entry.time.ToMilliseconds() for entry in timeline.entries)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("time", "service", "command", "by", "record", "change", "note"):
        table.add_column(column, no_wrap=True, justify="right" if column == "time" else "left")
    for entry in timeline.entries:
        for change in entry.changes:
            states = [state for state in (change.from_state, change.to_state) if state]
            moved = Text(" → ".join(dict.fromkeys(states)), style=_style(change.to_state))
            table.add_row(
                _since(entry.time.ToMilliseconds() - start_ms),
                entry.service,
                entry.command,
                f"{entry.trigger} {entry.caller}",
                f"{change.entity} {change.id}",
                moved,
                _readable(change.note),
            )
    return table


def _label(record: Record, about: str, start_ms: int) -> Text:
    label = Text.assemble((record.entity.replace("_", " "), "bold"), " ", (record.id, "cyan"))
    if about:
        label.append(f"  {about}")
    label.append("  ")
    shown_ms = -1
    for number, step in enumerate(record.steps):
        if number:
            label.append(" → " if step.state else "; ")
        label.append(step.state or _readable(step.note), style=_style(step.state))
        # What a new record is about stands before its states already.
        if step.state and step.note and (number or not about):
            label.append(f" ({_readable(step.note)})")
        if step.time_ms != shown_ms:
            label.append(f" {_since(step.time_ms - start_ms)}", style="dim")
            shown_ms = step.time_ms
    label.append(f"  {record.service}", style="dim italic")
    return label


def _style(state: str) -> str:
    if state in _GOOD:
        return "green"
    return "red" if state in _BAD else "yellow" if state in _DOUBTFUL else ""


def _since(ms: int) -> str:
    return f"+{ms} ms" if ms < 1000 else f"+{ms / 1000:.2f} s"


def _readable(note: str) -> str:
    """A journal's postings in major units."""

    def major(match: re.Match[str]) -> str:
        currency, minor = match.group(1), int(match.group(2))
        if currency not in EXPONENT:
            return match.group()
        return f"/{currency} {'+' if minor > 0 else ''}{format_minor(minor, currency).removesuffix(' ' + currency)}"

    return _POSTED_MINOR.sub(major, note)
