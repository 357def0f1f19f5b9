"""The real sandbox provider as a process, and a receiver for its notifications."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec
import tomli_w
from aiohttp import web

ADMIN_KEY = "admin-secret"
LIVE_KEY, SHADOW_KEY = "live-api-secret", "shadow-api-secret"
LIVE_SIGNING, SHADOW_SIGNING = "live-signing-secret", "shadow-signing-secret"
START_TIMEOUT_S = 20.0
CHANNEL, WALLET = "sandbox_card", "sandbox_wallet"
WALLET_KEY, WALLET_SIGNING = "wallet-api-secret", "wallet-signing-secret"


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class ProviderProcess:
    """``python -m channel_gateway.sandbox`` on a free port, with a live and a shadow account."""

    def __init__(self, folder: Path, notification_url: str = "", **settings: Any) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        account = {"notification_url": notification_url} if notification_url else {}
        wallet = {"notification_url": notification_url.replace(CHANNEL, WALLET)} if notification_url else {}
        self._accounts: dict[str, dict[str, Any]] = {
            CHANNEL: account | {"api_key": LIVE_KEY, "notification_key_id": "live-1", "notification_key": LIVE_SIGNING},
            f"{CHANNEL}_shadow": account
            | {
                "livemode": False,
                "api_key": SHADOW_KEY,
                "notification_key_id": "shadow-1",
                "notification_key": SHADOW_SIGNING,
            },
            WALLET: wallet
            | {
                "api_key": WALLET_KEY,
                "notification_key_id": "wallet-1",
                "notification_key": WALLET_SIGNING,
                "customer_confirms": True,
            },
        }
        self._settings = {
            "port": 0,
            "book_path": str(folder / "book.sqlite"),
            "admin_key": ADMIN_KEY,
            "accounts": self._accounts,
        } | settings
        self.url = ""

    def account(self, name: str) -> dict[str, Any]:
        """The settings of an account, to be changed before it is started."""
        return self._accounts[name]

    def add_account(self, name: str, **settings: Any) -> None:
        """Another account, before it is started."""
        self._accounts[name] = settings

    async def start(self) -> Self:
        """Starts it; its port stays the same over restarts."""
        path = self._folder / "sandbox.toml"
        path.write_text(tomli_w.dumps({"sandbox": self._settings}))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PAYMESH_")}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "channel_gateway.sandbox", "--config", str(path),
            stdout=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = (await asyncio.wait_for(self._process.stdout.readline(), START_TIMEOUT_S)).decode()
        assert "serving at" in line, line
        self.url = line.split()[-1]
        self._settings["port"] = int(self.url.rpartition(":")[2])
        return self

    async def exit_code(self) -> int:
        """Waits until it has ended by itself."""
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), START_TIMEOUT_S)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; the exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await asyncio.wait_for(self._process.wait(), START_TIMEOUT_S)


class Provider:
    """Talks to the provider as a channel would."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def post(
        self, path: str, reference: str, *, key: str = LIVE_KEY, idempotency_key: str = "", **body: Any
    ) -> tuple[int, Any]:
        """(HTTP status, body) of an order."""
        content = {"reference": reference, "amount_minor": 1000, "currency": "EUR"} | body
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": idempotency_key or reference}
        async with self._session.post(self._url + path, data=msgspec.json.encode(content), headers=headers) as answer:
            return answer.status, msgspec.json.decode(await answer.read())

    async def charge(self, reference: str, token: str, **options: Any) -> tuple[int, Any]:
        """A charge of 10.00 EUR where nothing else is said."""
        return await self.post("/v1/charges", reference, token=token, **options)

    async def query(self, reference: str, key: str = LIVE_KEY) -> tuple[int, Any]:
        """(HTTP status, body) of a query."""
        headers = {"Authorization": f"Bearer {key}"}
        async with self._session.get(f"{self._url}/v1/orders/{reference}", headers=headers) as answer:
            return answer.status, msgspec.json.decode(await answer.read())

    async def authorize(self, reference: str, token: str, **options: Any) -> tuple[int, Any]:
        """An authorisation of 10.00 EUR where nothing else is said."""
        return await self.post("/v1/authorizations", reference, token=token, **options)

    async def customer(self, reference: str, decision: str, key: str = ADMIN_KEY) -> tuple[int, Any]:
        """(HTTP status, body) of what a customer decides."""
        headers = {"Authorization": f"Bearer {key}"}
        body = {"reference": reference, "decision": decision}
        async with self._session.post(f"{self._url}/v1/customers", json=body, headers=headers) as answer:
            return answer.status, msgspec.json.decode(await answer.read())

    async def faults(self, *rules: dict[str, Any], key: str = ADMIN_KEY) -> int:
        """Replaces the fault script; the HTTP status."""
        headers = {"Authorization": f"Bearer {key}"}
        async with self._session.post(f"{self._url}/v1/faults", json={"rules": list(rules)}, headers=headers) as answer:
            return answer.status


class Receiver:
    """An HTTP endpoint that takes notifications: each as (signature header, raw body), in ``received``."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.refusals = 0  # how many of the next are answered 500
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def start(self) -> Self:
        application = web.Application()
        application.router.add_post("/", self._take)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        if self.refusals > 0:
            self.refusals -= 1
            return web.Response(status=500)
        self.received.put_nowait((request.headers["Paymesh-Sandbox-Signature"], await request.read()))
        return web.Response()

    async def next(self) -> tuple[str, Any]:
        """The next notification: (signature header, body)."""
        header, body = await asyncio.wait_for(self.received.get(), 10)
        return header, msgspec.json.decode(body)
