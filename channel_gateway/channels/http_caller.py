"""HTTP as every channel has to speak it: to the address that is configured and no other, bounded in time and size.

No redirect, proxy or cookie is followed, used or kept; nothing is unpacked; nothing is sent twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

import aiohttp
import msgspec
from yarl import URL

from channel_gateway.channel_settings import ChannelSettings

STREAM_PATIENCE_S = 60.0  # between two pieces of a stream


class HttpAnswer(msgspec.Struct, frozen=True):
    """An answer as it came; ``headers`` are compared without case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unanswered(Exception):
    """There is no usable answer; the message names why. ``may_be_sent``: a byte of the request may have left."""

    def __init__(self, name: str, *, may_be_sent: bool) -> None:
        super().__init__(name)
        self.may_be_sent = may_be_sent


class HttpCaller:
    """Calls one provider; ``start`` opens the connections, ``stop`` closes them."""

    def __init__(self, settings: ChannelSettings, answer_bytes_max: int) -> None:
        self._settings = settings
        self._answer_bytes_max = answer_bytes_max
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Makes ready; nothing is connected yet."""
        settings = self._settings
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=settings.max_in_flight, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_s, sock_connect=settings.connect_timeout_s),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,  # a small answer must not unfold into a large one
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def stop(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None = None) -> HttpAnswer:
        """The answer within ``timeout_s``; Unanswered. ``url`` is sent as it is written."""
        assert self._session is not None, "the channel is not started"
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                _check_plain(response)
                content = bytearray()
                async for piece in response.content.iter_any():
                    content += piece
                    if len(content) > self._answer_bytes_max:
                        response.close()
                        raise Unanswered("AnswerTooLong", may_be_sent=True)
                return HttpAnswer(response.status, response.headers, bytes(content))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # No connection was made, so no byte of the request has left.
            raise Unanswered(type(error).__name__, may_be_sent=False) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(type(error).__name__, may_be_sent=True) from None

    async def stream(self, url: URL, headers: Mapping[str, str]) -> AsyncGenerator[int | bytes, None]:
        """First the status of a GET, then its body in pieces; Unanswered, also after the first of them."""
        assert self._session is not None, "the channel is not started"
        patience = aiohttp.ClientTimeout(sock_connect=self._settings.connect_timeout_s, sock_read=STREAM_PATIENCE_S)
        try:
            async with self._session.get(url, headers=headers, allow_redirects=False, timeout=patience) as response:
                yield response.status
                _check_plain(response)
                async for piece in response.content.iter_any():
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(type(error).__name__, may_be_sent=True) from None


def _check_plain(response: aiohttp.ClientResponse) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        response.close()
        raise Unanswered("AnswerEncoded", may_be_sent=True)
