"""What goes down: each process of the stack by kill -9, each brought back as an orchestrator would."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import msgspec

from meshctl.settings import SANDBOX
from meshctl.stack import MARIADB_SERVERS, NATS, Stack

Step = Callable[[Stack], object]


class Outage(msgspec.Struct, frozen=True):
    """What goes away, step by step; the last step brings all of it back and waits until it is ready.

    Orders come before the first step and during the last; those that come between two others end before the next.
    """

    name: str
    steps: tuple[Step, ...]


def _kill(name: str) -> Step:
    return lambda stack: stack.kill(name)


def _process(name: str) -> Outage:
    return Outage(name, (_kill(name), lambda stack: stack.restart(name)))


def _server(name: str) -> Outage:
    # A server comes back at its port, with its data.
    return Outage(name, (_kill(name), Stack.up))


def _forget_jetstream(stack: Stack) -> None:
    stack.kill(NATS)
    shutil.rmtree(stack.directory / NATS / "store")


def _kill_all(stack: Stack) -> None:
    for name in stack.running():
        stack.kill(name)


STORE_LOST = Outage("nats, its store deleted", (_forget_jetstream, Stack.up))
RECON_AND_STORE = Outage("recon, then nats with all it had not heard", (_kill("recon"), _forget_jetstream, Stack.up))

# Each process goes away once.
EACH_ONCE: tuple[Outage, ...] = (
    _process("trade_core"),
    _process("pay_core"),
    _process("channel_gateway"),
    _process(SANDBOX),
    RECON_AND_STORE,
    _server(MARIADB_SERVERS[0]),
)

OUTAGES: tuple[Outage, ...] = (
    _process("trade_core"),
    _process("pay_core"),
    _process("channel_gateway"),
    _process("recon"),
    _process(SANDBOX),
    _server(NATS),
    STORE_LOST,
    RECON_AND_STORE,
    _server(MARIADB_SERVERS[0]),
    Outage("everything", (_kill_all, Stack.up)),
)
