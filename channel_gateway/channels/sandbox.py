"""The channel to the sandbox provider (``channel_gateway.sandbox``): HTTP and JSON, keys in headers."""

from __future__ import annotations

import datetime
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Literal

import aiohttp
import msgspec
import structlog

from channel_gateway.channel_order import ProviderResult, ResultStatus
from channel_gateway.channel_settings import ChannelSettings, ProviderAccountSettings
from channel_gateway.channels.base import (
    NotificationInvalid,
    ReceivedNotification,
    StatementNotReady,
    StatementUnreadable,
    WithoutStatements,
)
from channel_gateway.channels.sandbox_settings import SandboxChannelSettings
from channel_gateway.signature import HEADER, verify
from channel_gateway.tables import ChannelOrder
from paykit.ids import is_id

log = structlog.get_logger(__name__)

ANSWER_BYTES_MAX = 16_384
PROVIDER_REFUSED = "PROVIDER_REFUSED"  # it called the request itself wrong
PROVIDER_DECLINED = "PROVIDER_DECLINED"  # it gave no code that could be passed on

_JSON = "application/json"
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_CODE = re.compile(r"[a-z0-9_]{1,32}")
_UNKNOWN = ProviderResult(status=ResultStatus.UNKNOWN)
_NOT_SENT = ProviderResult(status=ResultStatus.NOT_SENT)
_NOT_FOUND = ProviderResult(status=ResultStatus.NOT_FOUND)
_REFUSED = ProviderResult(status=ResultStatus.FAILED, failure_reason=PROVIDER_REFUSED)
# By the provider's contract nothing was done: the key is not accepted, or there were too many calls.
_DONE_NOTHING = frozenset({401, 403, 429})
_MAINTENANCE = (503, "maintenance")  # the same: nobody is there to do anything
_STATEMENT_PATIENCE_S = 60.0  # between two pieces of a statement
_STATUS = {
    "succeeded": ResultStatus.SUCCEEDED,
    "failed": ResultStatus.FAILED,
    "pending": ResultStatus.PENDING,
}
_Text = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[A-Za-z0-9_.:-]*$")]


class SandboxOrder(msgspec.Struct, frozen=True):
    """What the provider says of an order, in answers and notifications."""

    provider_reference: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+$")]
    reference: _Text
    status: Literal["succeeded", "failed", "pending"]
    failure_code: _Text
    amount_minor: int
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}$")]
    livemode: bool
    merchant: _Text = ""  # the provider's id of the account


class SandboxNotification(msgspec.Struct, frozen=True):
    """The body of a notification."""

    notification_id: Annotated[str, msgspec.Meta(min_length=1, max_length=96, pattern=r"^[A-Za-z0-9_.:-]+$")]
    order: SandboxOrder


class SandboxErrorDetail(msgspec.Struct, frozen=True):
    """The code of an error."""

    code: str


class SandboxError(msgspec.Struct, frozen=True):
    """The body of an answer that is not 200."""

    error: SandboxErrorDetail


_encode = msgspec.json.Encoder().encode
_decode_order = msgspec.json.Decoder(SandboxOrder).decode
_decode_notification = msgspec.json.Decoder(SandboxNotification).decode
_decode_error = msgspec.json.Decoder(SandboxError).decode


class SandboxChannel(WithoutStatements):
    """One account at the sandbox provider, live or shadow."""

    statement_format: str | None = None

    def __init__(self, name: str, livemode: bool, settings: ChannelSettings, account: ProviderAccountSettings) -> None:
        self.name = name
        self.operations = settings.operations
        self.captures_max = settings.captures_max
        self.policy = settings.policy()
        assert isinstance(settings, SandboxChannelSettings)
        if settings.statement_format is not None:
            self.statement_format = settings.statement_format
        self._livemode = livemode
        self._settings = settings
        self._url = account.base_url.rstrip("/")
        self._authorization = f"Bearer {account.api_key.read()}"
        self._keys = {key_id: secret.read().encode() for key_id, secret in account.notification_keys.items()}
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        settings = self._settings
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=settings.max_in_flight, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_s, sock_connect=settings.connect_timeout_s),
            headers={"Authorization": self._authorization, "Content-Type": _JSON, "Accept-Encoding": "identity"},
            auto_decompress=False,  # a small answer must not unfold into a large one
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def charge(self, order: ChannelOrder) -> ProviderResult:
        return await self._send("/v1/charges", order, {"token": order.token})

    async def refund(self, order: ChannelOrder) -> ProviderResult:
        return await self._send("/v1/refunds", order, {"original_reference": order.original_channel_order_id})

    async def payout(self, order: ChannelOrder) -> ProviderResult:
        return await self._send("/v1/payouts", order, {"token": order.token})

    async def authorize(self, order: ChannelOrder) -> ProviderResult:
        return await self._send("/v1/authorizations", order, {"token": order.token})

    async def capture(self, order: ChannelOrder) -> ProviderResult:
        # Where the channel captures once only, the provider is told to give the rest up.
        original: dict[str, str | bool] = {
            "original_reference": order.original_channel_order_id,
            "is_final": self.captures_max == 1,
        }
        return await self._send("/v1/captures", order, original)

    async def void(self, order: ChannelOrder) -> ProviderResult:
        return await self._send("/v1/voids", order, {"original_reference": order.original_channel_order_id})

    async def query(self, order: ChannelOrder) -> ProviderResult:
        try:
            status, answer = await self._exchange("GET", f"/v1/orders/{order.id}", None, {})
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info("channel_query_unanswered", channel=self.name, channel_order_id=order.id, error=_name(error))
            return _UNKNOWN
        if status == 404 and _error_code(answer) == "not_found":
            return _NOT_FOUND
        return self._result(status, answer, order)

    async def _send(self, path: str, order: ChannelOrder, extra: Mapping[str, str | bool]) -> ProviderResult:
        body = _encode({"reference": order.id, "amount_minor": order.amount_minor, "currency": order.currency, **extra})
        try:
            status, answer = await self._exchange("POST", path, body, {"Idempotency-Key": order.id})
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # No connection was made, so no byte of the order has left.
            log.warning("channel_unreachable", channel=self.name, channel_order_id=order.id, error=_name(error))
            return _NOT_SENT
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("channel_unanswered", channel=self.name, channel_order_id=order.id, error=_name(error))
            return _UNKNOWN
        if status in _DONE_NOTHING or (status, _error_code(answer)) == _MAINTENANCE:
            log.error("channel_not_accepting", channel=self.name, channel_order_id=order.id, http_status=status)
            return _NOT_SENT
        if status == 400:
            log.error("channel_refused", channel=self.name, channel_order_id=order.id, code=_error_code(answer))
            return _REFUSED
        return self._result(status, answer, order)

    async def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        assert self._session is not None, "the channel is not started"
        async with self._session.request(
            method, self._url + path, data=body, headers=headers, allow_redirects=False
        ) as response:
            length = response.content_length
            if response.status == 200 and response.content_type != _JSON:
                response.close()
                raise aiohttp.ClientPayloadError("answer of another type than was agreed")
            if length is None or length > ANSWER_BYTES_MAX:
                response.close()
                raise aiohttp.ClientPayloadError("answer without a length, or too long")
            return response.status, await response.read()

    def _result(self, status: int, answer: bytes, order: ChannelOrder) -> ProviderResult:
        if status != 200:
            log.warning("channel_error", channel=self.name, channel_order_id=order.id, http_status=status)
            return _UNKNOWN
        try:
            said = _decode_order(answer)
        except _UNREADABLE:
            said = None
        if said is None or said.reference != order.id or said.livemode is not self._livemode:
            log.error("channel_answer_malformed", channel=self.name, channel_order_id=order.id)
            return _UNKNOWN
        return _as_result(said)

    async def statement(self, date: datetime.date) -> AsyncGenerator[bytes, None]:
        assert self._session is not None, "the channel is not started"
        url = f"{self._url}/v1/statements/{date.isoformat()}"
        patience = aiohttp.ClientTimeout(sock_connect=self._settings.connect_timeout_s, sock_read=_STATEMENT_PATIENCE_S)
        try:
            async with self._session.get(
                url, params={"format": self.statement_format or ""}, allow_redirects=False, timeout=patience
            ) as response:
                if response.status == 404:
                    raise StatementNotReady
                if response.status != 200:
                    raise StatementUnreadable(f"answered with {response.status}")
                async for piece in response.content.iter_any():
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StatementUnreadable(_name(error)) from None

    def read_notification(self, body: bytes, headers: Mapping[str, str], now_s: float) -> ReceivedNotification:
        verify(headers.get(HEADER, ""), body, self._keys, now_s, self._settings.notification_tolerance_s)
        try:
            notification = _decode_notification(body)
        except _UNREADABLE:
            raise NotificationInvalid("not a notification") from None
        said = notification.order
        if said.livemode is not self._livemode:
            raise NotificationInvalid("signed for the other mode")
        if not is_id(said.reference, "chn"):
            raise NotificationInvalid("names no channel order")
        return ReceivedNotification(
            notification_id=notification.notification_id,
            channel_order_id=said.reference,
            result=_as_result(said),
        )


def _as_result(said: SandboxOrder) -> ProviderResult:
    failed = said.status == "failed"
    reason = said.failure_code.upper() if _CODE.fullmatch(said.failure_code) else PROVIDER_DECLINED
    return ProviderResult(
        status=_STATUS[said.status],
        provider_reference=said.provider_reference,
        failure_reason=reason if failed else "",
        amount_minor=said.amount_minor,
        currency=said.currency,
        merchant=said.merchant or None,
    )


def _error_code(answer: bytes) -> str:
    try:
        code = _decode_error(answer).error.code
    except _UNREADABLE:
        return ""
    return code if _CODE.fullmatch(code) else ""


def _name(error: Exception) -> str:
    return type(error).__name__
