"""Runs one service in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from pathlib import Path

import structlog

from meshctl.settings import MeshSettings, load_mesh
from paykit import logging
from paykit.clock import Clock, SystemClock
from paykit.events.bus import Bus, open_bus
from paykit.rpc import loop
from paykit.service import Service

log = structlog.get_logger(__name__)

SANDBOX = "sandbox"


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
    bus = open_bus(settings.bus)
    await bus.start()
    try:
        service = build(name, settings, bus, SystemClock())
        try:
            await service.start()
            log.info("service_started", service=name, listen=settings.service(name).listen)
            await stop.wait()
            log.info("service_stopping", service=name)
        finally:
            await service.stop()
    finally:
        await bus.stop()
    log.info("service_stopped", service=name)
