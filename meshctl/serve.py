"""Runs one service in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from pathlib import Path

from meshctl.settings import SANDBOX, MeshSettings, load_mesh
from paykit import logging
from paykit.clock import Clock, SystemClock
from paykit.events.bus import Bus, open_bus
from paykit.rpc import loop
from paykit.service import Service
from paykit.telemetry import MetricsEndpoint


def run(name: str, config: Path) -> None:
    """Serves ``name`` until SIGTERM or SIGINT, then drains. ConfigurationError says what keeps it from starting."""
    if name == SANDBOX:
        os.execv(sys.executable, [sys.executable, "-m", "channel_gateway.sandbox", "--config", str(config)])
    settings = load_mesh(config)
    settings.service(name)
    logging.configure(is_production=settings.environment == "production", level=settings.log_level)
    loop.run(_serve(name, settings))


def build(name: str, settings: MeshSettings, bus: Bus, clock: Clock) -> Service:
    """The service ``name``, not yet started, from its composition root."""
    app = importlib.import_module(f"{name}.app")
    service: Service = app.build(settings.service(name), settings, bus, clock)
    return service


async def _serve(name: str, settings: MeshSettings) -> None:
    stop = asyncio.Event()
    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, stop.set)
    metrics_listen = settings.service(name).metrics_listen
    metrics = MetricsEndpoint(metrics_listen) if metrics_listen is not None else None
    bus = open_bus(settings.bus)
    await bus.start()
    try:
        service = build(name, settings, bus, SystemClock())
        await service.start()
        try:
            await stop.wait()
        finally:
            await service.stop()
    finally:
        await bus.stop()
        if metrics is not None:
            metrics.close()
