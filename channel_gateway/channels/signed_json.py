"""The channel to a provider that speaks signed JSON over HTTP, as its settings describe it: no code for each."""

from __future__ import annotations

import contextlib
import datetime
import secrets
from collections.abc import AsyncGenerator, Mapping

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
from channel_gateway.channels.http_caller import HttpAnswer, HttpCaller, Unanswered
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

_NONCE_BYTES = 16
_NO_REFERENCE = ProviderResult(status=ResultStatus.FAILED, failure_reason=PROVIDER_REFERENCE_MISSING)


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
        self._http = HttpCaller(settings, settings.answer_bytes_max)

    async def start(self) -> None:
        await self._http.start()

    async def stop(self) -> None:
        await self._http.stop()

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
            answer = await self._exchange(call)
        except ReferenceMissing:
            log.error("channel_query_impossible", channel=self.name, channel_order_id=order.id)
            return UNKNOWN
        except Unanswered as error:
            log.info("channel_query_unanswered", channel=self.name, channel_order_id=order.id, error=str(error))
            return UNKNOWN
        return self._result(name, answer, order, nonce)

    async def _send(self, name: str, order: ChannelOrder) -> ProviderResult:
        nonce = secrets.token_hex(_NONCE_BYTES)
        try:
            call = self._makers[name].make(order, self._clock.now_ms(), nonce)
            answer = await self._exchange(call)
        except ReferenceMissing:
            log.error("channel_reference_missing", channel=self.name, channel_order_id=order.id)
            return _NO_REFERENCE  # nothing was sent, and it would be no other the next time
        except Unanswered as error:
            event = "channel_unanswered" if error.may_be_sent else "channel_unreachable"
            log.warning(event, channel=self.name, channel_order_id=order.id, error=str(error))
            return UNKNOWN if error.may_be_sent else NOT_SENT
        return self._result(name, answer, order, nonce)

    async def statement(self, date: datetime.date) -> AsyncGenerator[bytes, None]:
        assert self._statement is not None
        call = self._statement_maker.make_for_day(date, self._clock.now_ms(), secrets.token_hex(_NONCE_BYTES))
        try:
            async with contextlib.aclosing(self._http.stream(self._url(call), call.headers)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, bytes):
                        yield piece
                    elif piece in self._statement.not_ready_statuses:
                        raise StatementNotReady
                    elif piece != 200:
                        raise StatementUnreadable(f"answered with {piece}")
        except Unanswered as error:
            raise StatementUnreadable(str(error)) from None

    async def _exchange(self, call: Call) -> HttpAnswer:
        return await self._http.call(call.method, self._url(call), call.headers, call.body)

    def _url(self, call: Call) -> URL:
        """Encoded already: what is sent is what was signed."""
        return URL(self._origin + call.target, encoded=True)

    def _result(self, name: str, answer: HttpAnswer, order: ChannelOrder, nonce: str) -> ProviderResult:
        reader = self._readers[name]
        meaning = reader.status_of(answer.status)
        if meaning is not StatusMeaning.ANSWER:
            log.warning("channel_error", channel=self.name, channel_order_id=order.id, http_status=answer.status)
        try:
            # Of an answer that says "not now" nothing is believed but that the same call may be made again.
            if self._answer_verifier is not None and meaning in (StatusMeaning.ANSWER, StatusMeaning.FAILED):
                now_s = self._clock.now_ms() / 1000
                self._answer_verifier.check(answer.headers, answer.body, now_s, self._settings.notification_tolerance_s)
            return reader.answer(answer.status, answer.body, order, nonce, is_query=name.startswith(QUERY))
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
