"""``meshctl recon …``: providers' statements."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from meshctl.places import found
from paykit.errors import ConfigurationError

app = typer.Typer(help="Imports providers' statements.", no_args_is_help=True)

Config = Annotated[
    Path | None,
    typer.Option(help="The settings file; left out: the stack's, else the last demo's.", show_default=False),
]
Channel = Annotated[str, typer.Option(help="The channel whose statement it is.", show_default=False)]
Day = Annotated[str, typer.Option("--date", help='The day it is of, as "2026-11-29".', show_default=False)]
Shadow = Annotated[bool, typer.Option("--shadow", help="Into the shadow databases.")]


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The statement.", exists=True, dir_okay=False)],
    channel: Channel,
    day: Day,
    format_: Annotated[
        str, typer.Option("--format", help="csv, camt053, mt940 or stripe; left out: as the settings say.")
    ] = "",
    account: Annotated[str, typer.Option(help="The account it must be of.")] = "",
    replaces: Annotated[str, typer.Option(help="The statement (stm_…) that it corrects.")] = "",
    shadow: Shadow = False,
    config: Config = None,
) -> None:
    """Import a statement file and match it; exit 1, with the lines and reasons, where it is refused."""
    from meshctl import statements as command

    what = command.What(channel, _day(day), format_, account, replaces, shadow)
    raise typer.Exit(command.import_file(found(config), file, what))


@app.command()
def fetch(channel: Channel, day: Day, shadow: Shadow = False, config: Config = None) -> None:
    """Fetch a channel's statement of a day from the provider, import it and match it."""
    from meshctl import statements as command

    raise typer.Exit(command.fetch(found(config), command.What(channel, _day(day), shadow=shadow)))


@app.command()
def report(
    day: Annotated[str, typer.Option("--from", help='The first day, as "2026-11-29".', show_default=False)],
    to: Annotated[str, typer.Option("--to", help="The last day; left out: the first one.", show_default=False)] = "",
    channel: Annotated[str, typer.Option(help="Only of this channel.")] = "",
    currency: Annotated[str, typer.Option(help="Only in this currency.")] = "",
    merchant: Annotated[str, typer.Option(help="Only of this merchant.")] = "",
    csv: Annotated[Path | None, typer.Option("--csv", help="Write it as CSV into this file.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write it as one page of HTML into this file.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Of the shadow databases.")] = False,
    config: Config = None,
) -> None:
    """Report days: orders, statement lines, differences, breaks and their ages. Prints a summary."""
    from meshctl import reports as command

    wanted = command.Wanted(_day(day), _day(to or day), channel, currency, merchant, shadow)
    raise typer.Exit(command.run(found(config), wanted, csv, html))


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ConfigurationError(f'--date {text}: not a day as "2026-11-29"') from None
