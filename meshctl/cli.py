"""The commands of ``meshctl``. Each lives in a module of its own, imported when it is called."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from meshctl import recon
from meshctl.places import DEMO_DIRECTORY, STACK_DIRECTORY, found
from meshctl.processes import ProcessFailed
from paykit.errors import ConfigurationError, MeshError

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2

app = typer.Typer(
    name="meshctl",
    help="Runs, watches and checks a paymesh system.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

rules = typer.Typer(help="Judges rules files.", no_args_is_help=True)
app.add_typer(rules, name="rules")
app.add_typer(recon.app, name="recon")

Config = Annotated[
    Path | None,
    typer.Option(help="The settings file; left out: the stack's, else the last demo's.", show_default=False),
]
RequiredConfig = Annotated[Path, typer.Option(help="The settings file.", show_default=False)]
StackDirectory = Annotated[Path, typer.Option("--dir", help="Where the stack keeps its settings, logs and data.")]


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Where the demo keeps its databases; emptied first.")] = (
        DEMO_DIRECTORY
    ),
    config: Annotated[
        Path | None, typer.Option(help="Run against the system of this settings file instead.", show_default=False)
    ] = None,
) -> None:
    """Run orders through the whole system, print their timelines and check every invariant."""
    from meshctl import demo as command

    raise typer.Exit(command.run(directory, config))


@app.command()
def trace(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Any id, or a biz_id.")],
    config: Config = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Look in the shadow databases.")] = False,
    flat: Annotated[bool, typer.Option("--flat", help="One line a change, in the order of time.")] = False,
) -> None:
    """Print one merged timeline of an order over all services."""
    path = found(config)
    from meshctl import trace as command

    raise typer.Exit(command.run(id_, path, shadow, flat))


@app.command()
def check(
    config: Config = None,
    settled: Annotated[bool, typer.Option(help="Nothing is under way; what is not terminal is wrong.")] = False,
    stated_time_s: Annotated[float, typer.Option(help="Seconds within which every order ends or has a break.")] = 900,
) -> None:
    """Check every invariant over all shards and the provider's book; exit 1 on a violation."""
    path = found(config)
    from meshctl import check as command

    raise typer.Exit(command.run(path, settled, stated_time_s))


@app.command()
def up(directory: StackDirectory = STACK_DIRECTORY) -> None:
    """Start the full stack: two MariaDB servers, NATS, the sandbox provider, each service its own process."""
    from meshctl import stack as command

    stack = command.Stack(directory, preferred_ports=True, say=typer.echo)
    stack.up()
    typer.echo("\n".join(["", *command.hints(stack)]))


@app.command()
def down(directory: StackDirectory = STACK_DIRECTORY) -> None:
    """Stop what `up` started. Its data stays."""
    from meshctl import stack as command

    if not command.Stack(directory, say=typer.echo).down():
        typer.echo(f"nothing runs in {directory}")


@app.command()
def migrate(config: RequiredConfig) -> None:
    """Bring the schema of every shard, live and shadow, up to date."""
    from meshctl import migrate as command

    command.run(config, typer.echo)


@app.command()
def serve(
    service: Annotated[str, typer.Argument(help="trade_core, pay_core, channel_gateway, recon or sandbox.")],
    config: RequiredConfig,
) -> None:
    """Run one service in this process until SIGTERM, then drain."""
    from meshctl import serve as command

    command.run(service, config)


@rules.command(name="check")
def check_rules(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The rules file.")],
    channel: Annotated[
        list[str] | None, typer.Option(help="A channel there is; once for each. Left out: any.", show_default=False)
    ] = None,
) -> None:
    """Check a rules file: print what it has, or every problem with its place and exit 1."""
    from meshctl import rules as command

    raise typer.Exit(command.check(file, channel or [], typer.echo))


def main() -> None:
    """Runs a command. Exit code 2 where the configuration is wrong, 1 where something else failed."""
    # gRPC's library writes to the terminal on its own whenever a server goes away; it reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        app()
    except ConfigurationError as error:
        print(f"configuration: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIGURATION)
    except (ProcessFailed, MeshError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
