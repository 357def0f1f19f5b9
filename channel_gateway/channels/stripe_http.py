"""The HTTP client under Stripe's SDK: our own session, so that what every channel promises holds for it too.

No redirects, no proxies from the environment, TLS verified, one attempt, one time limit, answers of bounded size.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import aiohttp
import stripe

from paykit.errors import ConfigurationError

# By method: one object, or a page of a hundred.
ANSWER_BYTES_MAX = {"post": 262_144, "get": 3_145_728}

_CHUNK_BYTES = 65_536
# What leaves this machine, of all that the SDK would send: nothing about the machine.
_SENT = frozenset({"authorization", "content-type", "idempotency-key", "stripe-account", "stripe-version"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VERBOSE = frozenset({"debug", "info"})


class Unreachable(stripe.APIConnectionError):
    """No connection was made, so no byte of the request has left."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]


class Unanswered(stripe.APIConnectionError):
    """The request may have arrived; there is no answer that could be read."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]


def silence_sdk() -> None:
    """Stops what the SDK does by itself: it logs and prints bodies, and keeps an id of the machine in a file.

    ConfigurationError where the environment asks it to print them: no setting of the SDK takes that back.
    """
    if os.environ.get("STRIPE_LOG") in _VERBOSE:
        raise ConfigurationError("STRIPE_LOG makes Stripe's SDK print what it sends and receives: unset it")
    stripe.enable_telemetry = False
    stripe.log = None
    logging.getLogger("stripe").disabled = True


class HttpClient(stripe.HTTPClient):
    """What the SDK calls. To be opened and closed with the channel."""

    name = "aiohttp"

    def __init__(self, base_url: str, timeout_s: float, connect_timeout_s: float, connections_max: int) -> None:
        super().__init__()
        self._base = base_url + "/"
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=connect_timeout_s)
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Opens the session; connections are made as they are needed."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections_max, keepalive_timeout=60),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "Accept": "application/json", "User-Agent": "paymesh"},
            auto_decompress=False,  # a small answer must not become a large one
            trust_env=False,
        )

    async def close_async(self) -> None:
        """Closes the session and its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """(body, HTTP status, headers) of one exchange; Unreachable, Unanswered."""
        assert self._session is not None, "the channel is not started"
        assert url.startswith(self._base), "an address that is not the configured one"
        sent = {name: value for name, value in headers.items() if name.lower() in _SENT}
        try:
            async with self._session.request(
                method, url, headers=sent, data=post_data, allow_redirects=False
            ) as response:
                body = await _read(response, ANSWER_BYTES_MAX[method])
                return body, response.status, _passed_on(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(type(error).__name__) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(type(error).__name__) from None

    async def request_stream_async(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not used: answers are read whole, since they are bounded."""
        raise AssertionError("an answer was to be streamed")

    def sleep_async(self, secs: float) -> NoReturn:
        """The SDK sleeps only before it sends again, which it must not do."""
        raise AssertionError("the SDK was to send again")


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > bytes_max:
            response.close()
            raise aiohttp.ClientPayloadError("answer too long")
    return bytes(body)


def _passed_on(response: aiohttp.ClientResponse) -> Mapping[str, str]:
    """The headers that the SDK gets to see: others would make it warn in the provider's words, or send again."""
    request_id = response.headers.get("Request-Id", "")
    return {"request-id": request_id} if _REQUEST_ID.fullmatch(request_id) else {}
