"""The channel to the sandbox provider (``channel_gateway.sandbox``): HTTP and JSON, keys in headers."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
import structlog
from yarl import URL

from channel_gateway.channel_order import ProviderResult, ResultStatus
from channel_gateway.channel_settings import ChannelSettings, ProviderAccountSettings
from channel_gateway.channels.base import (
    NotificationInvalid,
    ReceivedNotification,
    StatementNotReady,
    StatementUnreadable,
    WithoutStatements,
)
from channel_gateway.channels.http_caller import HttpCaller, Unanswered
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
        self._tolerance_s = settings.notification_tolerance_s
        self._url = account.base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {account.api_key.read()}", "Content-Type": _JSON}
        self._keys = {key_id: secret.read().encode() for key_id, secret in account.notification_keys.items()}
        self._http = HttpCaller(settings, ANSWER_BYTES_MAX)

    async def start(self) -> None:
        await self._http.start()

    async def stop(self) -> None:
        await self._http.stop()

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
        """By the provider's own reference where it is known: of what was done twice, it names the one."""
        reference = quote(order.provider_reference or order.id, safe="")
        try:
            status, answer = await self._exchange("GET", f"/v1/orders/{reference}", None, {})
        except Unanswered as error:
            log.info("channel_query_unanswered", channel=self.name, channel_order_id=order.id, error=str(error))
            return _UNKNOWN
        if status == 404 and _error_code(answer) == "not_found":
            return _NOT_FOUND
        return self._result(status, answer, order)

    async def _send(self, path: str, order: ChannelOrder, extra: Mapping[str, str | bool]) -> ProviderResult:
        body = _encode({"reference": order.id, "amount_minor": order.amount_minor, "currency": order.currency, **extra})
        try:
            status, answer = await self._exchange("POST", path, body, {"Idempotency-Key": order.id})
        except Unanswered as error:
            event = "channel_unanswered" if error.may_be_sent else "channel_unreachable"
            log.warning(event, channel=self.name, channel_order_id=order.id, error=str(error))
            return _UNKNOWN if error.may_be_sent else _NOT_SENT
        if status in _DONE_NOTHING or (status, _error_code(answer)) == _MAINTENANCE:
            log.error("channel_not_accepting", channel=self.name, channel_order_id=order.id, http_status=status)
            return _NOT_SENT
        if status == 400:
            log.error("channel_refused", channel=self.name, channel_order_id=order.id, code=_error_code(answer))
            return _REFUSED
        return self._result(status, answer, order)

    async def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        answer = await self._http.call(method, URL(self._url + path, encoded=True), self._headers | headers, body)
        if answer.status == 200 and not answer.headers.get("Content-Type", "").startswith(_JSON):
            raise Unanswered("AnswerOfAnotherType", may_be_sent=True)
        return answer.status, answer.body

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
        url = URL(f"{self._url}/v1/statements/{date.isoformat()}?format={self.statement_format}", encoded=True)
        try:
            async with contextlib.aclosing(self._http.stream(url, self._headers)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, bytes):
                        yield piece
                    elif piece == 404:
                        raise StatementNotReady
                    elif piece != 200:
                        raise StatementUnreadable(f"answered with {piece}")
        except Unanswered as error:
            raise StatementUnreadable(str(error)) from None

    def read_notification(self, body: bytes, headers: Mapping[str, str], now_s: float) -> ReceivedNotification:
        verify(headers.get(HEADER, ""), body, self._keys, now_s, self._tolerance_s)
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
