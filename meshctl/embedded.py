"""The whole system in one process: four services on one event loop, SQLite shards and the embedded bus.

Only the sandbox provider is a process of its own, as every provider is. All of it lies in one folder: ``paymesh.toml``
(written once, then used), the databases, ``bus/``, the provider's book and ``logs/``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sqlalchemy import select

from channel_gateway.tables import ChannelOrder
from meshctl import serve
from meshctl.layout import Ports, configuration, write_configuration
from meshctl.migrate import migrate_all
from meshctl.processes import ProcessRecord, log_tail, start_process, wait_until
from meshctl.settings import SANDBOX, SERVICES, MeshSettings, load_mesh
from pay_core.tables import Payment
from paykit import logging
from paykit.clock import SystemClock
from paykit.events.bus import Bus, open_bus
from paykit.service import Service
from paykit.store.row import Row
from recon.tables import Match
from trade_core.tables import Trade

PROVIDER_READY_TIMEOUT_S = 20
PROVIDER_STOP_GRACE_S = 5
LOOK_INTERVAL_S = 0.05
QUIET_LOOKS = 3  # an event between the bus and its consumer is seen in no table

_SERVING = "serving at"
# The rows that somebody still works on, by service.
_OPEN_STATES: Mapping[str, Sequence[tuple[type[Row], Sequence[str]]]] = {
    "trade_core": ((Trade, ("PAYING", "SETTLING")),),
    "pay_core": ((Payment, ("PROCESSING", "REVERSING")),),
    "channel_gateway": ((ChannelOrder, ("ACCEPTED", "SENDING", "PENDING", "UNKNOWN")),),
    "recon": ((Match, ("WAITING",)),),
}

# A demonstration does not wait as long as a real system: a silent provider is asked after a second or two.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "trade_core": {"timers": {"interval_s": 0.2}, "drain_grace_s": 5.0},
    "pay_core": {"timers": {"interval_s": 0.2}, "drain_grace_s": 5.0, "channel_result_due_s": 5.0, "drain_s": 5.0},
    "channel_gateway": {"timers": {"interval_s": 0.1}, "drain_grace_s": 5.0},
    "recon": {"timers": {"interval_s": 0.2}, "drain_grace_s": 5.0, "window_s": 5.0},
    "sandbox": {"settle_ms": 60, "late_ms": 2500, "hang_ms": 10_000},
}
QUICK_CHANNEL: Mapping[str, Any] = {"timeout_s": 1.0, "query_ladder_s": [1.0, 1.0, 2.0, 4.0, 8.0, 30.0, 300.0]}


class EmbeddedMesh:
    """The system of ``directory``, for the time of an ``async with``.

    Uses the folder's ``paymesh.toml`` where there is one; else writes ``config``, or where that is left out the
    embedded default with the short waits of ``QUICK``. ConfigurationError or ProcessFailed says what does not start.
    """

    def __init__(self, directory: Path, config: dict[str, Any] | None = None) -> None:
        self.directory = directory.resolve()
        self.config = self.directory / "paymesh.toml"
        if not self.config.exists():
            write_configuration(self.config, embedded_configuration(self.directory) if config is None else config)
        self.settings: MeshSettings = load_mesh(self.config)
        self.services: dict[str, Service] = {}
        self._closing = contextlib.AsyncExitStack()

    @property
    def addresses(self) -> dict[str, str]:
        """host:port of each service."""
        return {name: self.settings.service(name).listen for name in SERVICES}

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as opened:
            await migrate_all(self.settings, lambda _line: None)
            self.log(SANDBOX).unlink(missing_ok=True)
            provider = start_process(
                SANDBOX,
                [sys.executable, "-m", "channel_gateway.sandbox", "--config", str(self.config)],
                self.log(SANDBOX),
                environment=_environment(),
                tied=True,
            )
            opened.push_async_callback(asyncio.to_thread, provider.stop, PROVIDER_STOP_GRACE_S)
            await self._provider_ready(provider)
            bus = open_bus(self.settings.bus)
            await bus.start()
            opened.push_async_callback(bus.stop)
            await self._start_services(bus, opened)
            self._closing = opened.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        # In reverse: services drain first, each before those it calls; then the bus; the provider last.
        await self._closing.aclose()

    def log(self, name: str) -> Path:
        """Where a process writes its log."""
        return self.directory / "logs" / f"{name}.log"

    async def settle(self, timeout_s: float = 30.0) -> None:
        """Returns when nothing is under way any more; TimeoutError says what still is after ``timeout_s``.

        Nothing: no message waits, no payment is open, and recon has both sides of all it has heard of.
        """
        last, quiet_looks = "nobody has looked yet", 0
        try:
            async with asyncio.timeout(timeout_s):
                while quiet_looks < QUIET_LOOKS:
                    left = await self._under_way()
                    quiet_looks = 0 if left else quiet_looks + 1
                    last = left or last
                    await asyncio.sleep(LOOK_INTERVAL_S)
        except TimeoutError:
            raise TimeoutError(f"still under way after {timeout_s:g} s: {last}") from None

    async def _under_way(self) -> str:
        for name, service in self.services.items():
            if not await service.is_idle():
                return f"messages of {name}"
            for row_type, states in _OPEN_STATES[name]:
                table = row_type.__table__
                statement = select(table).where(table.c.state.in_(states)).limit(1)
                for shadow in (False, True):
                    found = await service.store.fetch_everywhere(row_type, statement, shadow=shadow)
                    if found:
                        return found[0].id
        return ""

    async def _provider_ready(self, provider: ProcessRecord) -> None:
        log = self.log(SANDBOX)
        await asyncio.to_thread(wait_until, lambda: _SERVING in log_tail(log), provider, log, PROVIDER_READY_TIMEOUT_S)

    async def _start_services(self, bus: Bus, opened: contextlib.AsyncExitStack) -> None:
        clock = SystemClock()
        for name in SERVICES:
            service = serve.build(name, self.settings, bus, clock)
            await service.start()
            opened.push_async_callback(service.stop)
            self.services[name] = service


def embedded_configuration(directory: Path) -> dict[str, Any]:
    """Two SQLite shards per service, live and shadow, and the embedded bus, under ``directory``; free ports."""
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    return quick(
        configuration(
            lambda service, shard, mode: f"sqlite+aiosqlite:///{data / f'{service}_{shard}_{mode}.sqlite'}",
            {"kind": "embedded", "path": str(directory / "bus")},
            Ports.choose(preferred=False),
            data / "sandbox_book.sqlite",
        )
    )


def quick(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the short waits of a demonstration, and no metrics endpoints."""
    for name in SERVICES:
        del config[name]["metrics_listen"]  # one process has one set of metrics, and nobody scrapes it
    for section, values in QUICK.items():
        config[section] |= values
    for channel in config["channel_gateway"]["channels"].values():
        channel |= QUICK_CHANNEL
    return config


def log_to_file(directory: Path) -> None:
    """Lets what runs in this process log to ``logs/mesh.log`` of ``directory`` instead of the terminal."""
    path = directory / "logs" / "mesh.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.configure(is_production=False, stream=path.open("a", buffering=1))


def _environment() -> dict[str, str]:
    """This process's, with the code this process runs."""
    source = str(Path(__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH")
    return dict(os.environ) | {"PYTHONPATH": f"{source}{os.pathsep}{path}" if path else source}
