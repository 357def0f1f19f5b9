"""The channel to a provider that speaks signed JSON over HTTP, as its settings describe it: no code for each."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import AsyncGenerator, Mapping

import aiohttp
import structlog
from yarl import URL

from channel_gateway.channel_order import ProviderResult, ResultStatus
from channel_gateway.channels.base import (
    NotificationInvalid,
    NotificationIrrelevant,
    ReceivedNotification,
    StatementNotReady,
    StatementUnreadable,
    WithoutStatements,
)
from channel_gateway.channels.signed_json_answer_settings import StatusMeaning
from channel_gateway.channels.signed_json_answers import NOT_SENT, UNKNOWN, Irrelevant, Reader
from channel_gateway.channels.signed_json_document import DocumentInvalid
from channel_gateway.channels.signed_json_keys import Sign, Verify, signing_key, verifying_key
from channel_gateway.channels.signed_json_requests import Call, CallMaker, ReferenceMissing
from channel_gateway.channels.signed_json_settings import (
    QUERY,
    CallSettings,
    SignedJsonAccountSettings,
    SignedJsonChannelSettings,
)
from channel_gateway.channels.signed_json_signature_settings import ProviderSignatureSettings
from channel_gateway.channels.signed_json_signatures import Verifier
from channel_gateway.signature import SignatureInvalid
from channel_gateway.tables import ChannelOrder
from paykit.clock import Clock, SystemClock

log = structlog.get_logger(__name__)

PROVIDER_REFERENCE_MISSING = "PROVIDER_REFERENCE_MISSING"
STATEMENT_PATIENCE_S = 60.0  # between two pieces of a statement

_NONCE_BYTES = 16
_NO_REFERENCE = ProviderResult(status=ResultStatus.FAILED, failure_reason=PROVIDER_REFERENCE_MISSING)


class _AnswerUnusable(Exception):
    """Too long, or in an encoding that was not asked for."""


class SignedJsonChannel(WithoutStatements):
    """One account at one provider, live or shadow."""

    def __init__(
        self,
        name: str,
        livemode: bool,
        settings: SignedJsonChannelSettings,
        account: SignedJsonAccountSettings,
        clock: Clock | None = None,
    ) -> None:
        """ConfigurationError names a key that is none."""
        self.name = name
        self.operations = settings.operations
        self.captures_max = settings.captures_max
        self.policy = settings.policy()
        self._settings = settings
        self._clock = clock or SystemClock()
        base = URL(account.base_url)
        self._origin = str(base.origin())
        where = name if livemode else f"{name}.shadow"
        sign = _signing(settings, account, where)
        base_path = base.raw_path.rstrip("/")
        self._makers = {c: CallMaker(settings, account, call, sign, base_path) for c, call in settings.calls.items()}
        reasons, amounts = settings.failure_reasons, settings.amount_format
        self._readers = {c: Reader(settings.form_of(c), reasons, amounts, livemode=livemode) for c in settings.calls}
        self._answer_verifier = _verifier(settings, account, settings.answer_signature, where)
        self._notifications = settings.notifications
        if settings.notifications is not None:
            form = settings.answers.merged(settings.notifications)
            self._notification_reader = Reader(form, reasons, amounts, livemode=livemode)
            self._notification_verifier = _verifier(settings, account, settings.notifications.signature, where)
        self._statement = settings.statement
        if settings.statement is not None:
            self.statement_format = settings.statement.format
            day = CallSettings.model_construct(method="GET", path=settings.statement.path, headers={}, body={})
            self._statement_maker = CallMaker(settings, account, day, sign, base_path)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        settings = self._settings
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=settings.max_in_flight, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_s, sock_connect=settings.connect_timeout_s),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            auto_decompress=False,  # a small answer must not unfold into a large one
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def charge(self, order: ChannelOrder) -> ProviderResult:
        return await self._send("CHARGE", order)

    async def refund(self, order: ChannelOrder) -> ProviderResult:
        return await self._send("REFUND", order)

    async def payout(self, order: ChannelOrder) -> ProviderResult:
        return await self._send("PAYOUT", order)

    async def authorize(self, order: ChannelOrder) -> ProviderResult:
        return await self._send("AUTHORIZE", order)

    async def capture(self, order: ChannelOrder) -> ProviderResult:
        return await self._send("CAPTURE", order)

    async def void(self, order: ChannelOrder) -> ProviderResult:
        return await self._send("VOID", order)

    async def query(self, order: ChannelOrder) -> ProviderResult:
        name = f"{QUERY}_{order.kind}"
        name = name if name in self._makers else QUERY
        nonce = secrets.token_hex(_NONCE_BYTES)
        try:
            call = self._makers[name].make(order, self._clock.now_ms(), nonce)
            status, headers, body = await self._exchange(call)
        except ReferenceMissing:
            log.error("channel_query_impossible", channel=self.name, channel_order_id=order.id)
            return UNKNOWN
        except (aiohttp.ClientError, TimeoutError, OSError, _AnswerUnusable) as error:
            log.info("channel_query_unanswered", channel=self.name, channel_order_id=order.id, error=_name(error))
            return UNKNOWN
        return self._result(name, status, headers, body, order, nonce)

    async def _send(self, name: str, order: ChannelOrder) -> ProviderResult:
        nonce = secrets.token_hex(_NONCE_BYTES)
        try:
            call = self._makers[name].make(order, self._clock.now_ms(), nonce)
        except ReferenceMissing:
            log.error("channel_reference_missing", channel=self.name, channel_order_id=order.id)
            return _NO_REFERENCE  # nothing was sent, and it would be no other the next time
        try:
            status, headers, body = await self._exchange(call)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            # No connection was made, so no byte of the order has left.
            log.warning("channel_unreachable", channel=self.name, channel_order_id=order.id, error=_name(error))
            return NOT_SENT
        except (aiohttp.ClientError, TimeoutError, OSError, _AnswerUnusable) as error:
            log.warning("channel_unanswered", channel=self.name, channel_order_id=order.id, error=_name(error))
            return UNKNOWN
        return self._result(name, status, headers, body, order, nonce)

    async def statement(self, date: datetime.date) -> AsyncGenerator[bytes, None]:
        assert self._session is not None, "the channel is not started"
        assert self._statement is not None
        call = self._statement_maker.make_for_day(date, self._clock.now_ms(), secrets.token_hex(_NONCE_BYTES))
        patience = aiohttp.ClientTimeout(sock_connect=self._settings.connect_timeout_s, sock_read=STATEMENT_PATIENCE_S)
        try:
            async with self._session.get(
                self._url(call), headers=call.headers, allow_redirects=False, timeout=patience
            ) as response:
                if response.status in self._statement.not_ready_statuses:
                    raise StatementNotReady
                if response.status != 200 or not _is_plain(response):
                    raise StatementUnreadable(f"answered with {response.status}")
                async for piece in response.content.iter_any():
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StatementUnreadable(_name(error)) from None

    def _url(self, call: Call) -> URL:
        """Encoded already: what is sent is what was signed."""
        return URL(self._origin + call.target, encoded=True)

    async def _exchange(self, call: Call) -> tuple[int, Mapping[str, str], bytes]:
        assert self._session is not None, "the channel is not started"
        async with self._session.request(
            call.method, self._url(call), data=call.body, headers=call.headers, allow_redirects=False
        ) as response:
            if not _is_plain(response):
                response.close()
                raise _AnswerUnusable
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > self._settings.answer_bytes_max:
                    response.close()
                    raise _AnswerUnusable
            return response.status, response.headers, bytes(body)

    def _result(
        self, name: str, status: int, headers: Mapping[str, str], body: bytes, order: ChannelOrder, nonce: str
    ) -> ProviderResult:
        reader = self._readers[name]
        meaning = reader.status_of(status)
        if meaning is not StatusMeaning.ANSWER:
            log.warning("channel_error", channel=self.name, channel_order_id=order.id, http_status=status)
        try:
            # Of an answer that says "not now" nothing is believed but that the same call may be made again.
            if self._answer_verifier is not None and meaning in (StatusMeaning.ANSWER, StatusMeaning.FAILED):
                now_s = self._clock.now_ms() / 1000
                self._answer_verifier.check(headers, body, now_s, self._settings.notification_tolerance_s)
            return reader.answer(status, body, order, nonce, is_query=name.startswith(QUERY))
        except (SignatureInvalid, DocumentInvalid) as error:
            log.error("channel_answer_malformed", channel=self.name, channel_order_id=order.id, reason=str(error))
            return UNKNOWN

    def read_notification(self, body: bytes, headers: Mapping[str, str], now_s: float) -> ReceivedNotification:
        if self._notifications is None:
            raise SignatureInvalid("the provider sends no notifications")
        assert self._notification_verifier is not None
        self._notification_verifier.check(headers, body, now_s, self._settings.notification_tolerance_s)
        try:
            return self._notification_reader.notification(body, self._notifications.notification_id)
        except Irrelevant:
            raise NotificationIrrelevant("of a state that is none of an order") from None
        except DocumentInvalid as error:
            raise NotificationInvalid(str(error)) from None


def _signing(settings: SignedJsonChannelSettings, account: SignedJsonAccountSettings, where: str) -> Sign | None:
    signature = settings.request_signature
    if signature is None:
        return None
    return signing_key(signature.scheme, account.api_key.read(), signature.secret_encoding, f"{where}.api_key")


def _verifier(
    settings: SignedJsonChannelSettings,
    account: SignedJsonAccountSettings,
    signature: ProviderSignatureSettings | None,
    where: str,
) -> Verifier | None:
    if signature is None:
        return None
    keys: dict[str, Verify] = {}
    for key_id, secret in account.notification_keys.items():
        named = f"{where}.notification_keys.{key_id}"
        keys[key_id] = verifying_key(signature.scheme, secret.read(), signature.secret_encoding, named)
    return Verifier(signature, keys, account.merchant_id, settings.time_format, settings.utc_offset_minutes)


def _is_plain(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("Content-Encoding", "identity") == "identity"


def _name(error: Exception) -> str:
    return type(error).__name__
