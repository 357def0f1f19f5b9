"""``python -m channel_gateway.sandbox --config FILE``: runs the provider until SIGTERM or SIGINT.

FILE is TOML with a [sandbox] table; ``PAYMESH_SANDBOX__PORT=0`` in the environment overrides a key of it.
Once it serves it prints one line, ``sandbox provider serving at URL``.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from channel_gateway.sandbox.server import Provider
from channel_gateway.sandbox.settings import SandboxFile, SandboxSettings
from paykit.clock import SystemClock
from paykit.errors import ConfigurationError
from paykit.logging import configure
from paykit.settings import load

# The book's thread gives up the interpreter at each statement; by default it would wait 5 ms to get it back.
_SWITCH_INTERVAL_S = 0.0002


def main() -> int:
    """Exit code 0 after a graceful stop, 2 where the configuration is wrong or the port or book cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m channel_gateway.sandbox", description="The sandbox provider.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file with a [sandbox] table")
    arguments = parser.parse_args()
    try:
        settings = load(SandboxFile, arguments.config).sandbox
    except ConfigurationError as error:
        print(f"configuration: {error}", file=sys.stderr)
        return 2
    configure(is_production=False)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    return uvloop.run(_serve(settings))


async def _serve(settings: SandboxSettings) -> int:
    provider = Provider(settings, SystemClock())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await provider.start()
    except Exception as error:
        print(f"cannot start on {settings.host}:{settings.port} with {settings.book_path}: {error}", file=sys.stderr)
        await provider.stop()
        return 2
    print(f"sandbox provider serving at {provider.url}", flush=True)
    await stop.wait()
    await provider.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
