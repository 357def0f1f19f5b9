"""What a provider's answers and notifications say, by the tables of the settings. Pure.

What is not wholly as declared is DocumentInvalid: it leaves all as open as no answer would.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from channel_gateway.channel_order import ProviderResult, ResultStatus
from channel_gateway.channels.base import ReceivedNotification
from channel_gateway.channels.signed_json_amounts import AmountFormat, read_amount
from channel_gateway.channels.signed_json_answer_settings import AnswerSettings, CodeMeaning, Meaning, StatusMeaning
from channel_gateway.channels.signed_json_document import DocumentInvalid, find, find_text, parse_document
from channel_gateway.tables import ChannelOrder
from paykit.ids import is_id
from paykit.money import is_currency

PROVIDER_REFUSED = "PROVIDER_REFUSED"  # the call itself, with a code that no table has, or none
PROVIDER_DECLINED = "PROVIDER_DECLINED"  # the order, likewise

UNKNOWN = ProviderResult(status=ResultStatus.UNKNOWN)
NOT_SENT = ProviderResult(status=ResultStatus.NOT_SENT)
_NOT_FOUND = ProviderResult(status=ResultStatus.NOT_FOUND)

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/+=~-]{0,63}")
_NOTIFICATION_ID = re.compile(r"[A-Za-z0-9_.:/+=~-]{1,96}")
_MERCHANT = re.compile(r"[!-~]{1,64}")
_STATUSES = {
    Meaning.SUCCEEDED: ResultStatus.SUCCEEDED,
    Meaning.FAILED: ResultStatus.FAILED,
    Meaning.PENDING: ResultStatus.PENDING,
}


class Irrelevant(Exception):
    """A notification of something that is none of our orders' states."""


class Reader:
    """Reads the answers to one call, or the notifications, of a channel."""

    def __init__(
        self, form: AnswerSettings, reasons: Mapping[str, str], amount_format: AmountFormat, *, livemode: bool
    ) -> None:
        self._form = form
        self._reasons = reasons
        self._amount_format = amount_format
        self._livemode = livemode

    def status_of(self, http_status: int) -> StatusMeaning | None:
        """What an HTTP status says; None: nothing that could be relied on."""
        return self._form.http_statuses.get(http_status)

    def answer(
        self, http_status: int, body: bytes, order: ChannelOrder, nonce: str, *, is_query: bool
    ) -> ProviderResult:
        """What an answer says of ``order``. A query that is refused says nothing of it: UNKNOWN.

        DocumentInvalid where it is not as declared, which leaves it UNKNOWN too.
        """
        meaning = self.status_of(http_status)
        if meaning is None:
            return UNKNOWN
        if meaning is StatusMeaning.NOT_SENT:
            return UNKNOWN if is_query else NOT_SENT
        if meaning is StatusMeaning.FAILED:
            return UNKNOWN if is_query else self._refused(_parsed_or_none(body), order)
        document = parse_document(body)
        form = self._form
        said = find_text(document, form.result_code) if form.result_code else None
        if said is not None:
            code = form.result_codes.get(said, CodeMeaning.UNKNOWN)
            if code is not CodeMeaning.STATE:
                return self._by_code(code, document, order, is_query=is_query)
        if form.tied_by != "call":
            expected = order.id if form.tied_by == "order_id" else nonce
            if find_text(document, form.reference) != expected:
                raise DocumentInvalid("of another order")
        result = self._by_state(document)
        return UNKNOWN if result.status is ResultStatus.NOT_FOUND and not is_query else result

    def notification(self, body: bytes, id_path: str) -> ReceivedNotification:
        """What a notification says. ``id_path``: where its own id stands; empty: the digest of its body is taken.

        DocumentInvalid; Irrelevant where its state is one that says nothing of an order.
        """
        document = parse_document(body)
        if self._meaning(document) in (Meaning.UNKNOWN, Meaning.NOT_FOUND):
            raise Irrelevant
        order_id = find_text(document, self._form.reference) or ""
        if not is_id(order_id, "chn"):
            raise DocumentInvalid("names no channel order")
        return ReceivedNotification(
            notification_id=_notification_id(document, body, id_path),
            channel_order_id=order_id,
            result=self._by_state(document),
        )

    def _by_code(self, code: CodeMeaning, document: Any, order: ChannelOrder, *, is_query: bool) -> ProviderResult:
        """What a code says by itself."""
        if code is CodeMeaning.NOT_FOUND and is_query:
            return _NOT_FOUND
        if code is CodeMeaning.NOT_SENT and not is_query:
            return NOT_SENT
        if code is CodeMeaning.FAILED and not is_query:
            return self._refused(document, order)
        return UNKNOWN

    def _meaning(self, document: Any) -> Meaning:
        """DocumentInvalid where no table has the state."""
        said = [find_text(document, path) or "" for path in self._form.state]
        is_ambiguous = len(said) > 1 and any("/" in text for text in said)
        meaning = None if is_ambiguous else self._form.states.get("/".join(said))
        if meaning is None:
            raise DocumentInvalid("of a state that no table has")
        return meaning

    def _by_state(self, document: Any) -> ProviderResult:
        form = self._form
        meaning = self._meaning(document)
        if meaning is Meaning.NOT_FOUND:
            return _NOT_FOUND
        if meaning is Meaning.UNKNOWN:
            return UNKNOWN
        if form.livemode:
            mode = form.livemode_values.get(find_text(document, form.livemode) or "")
            if mode is not self._livemode:
                raise DocumentInvalid("of the other mode")
        amount_minor, said_currency = None, None
        merchant = _text_at(document, form.merchant, _MERCHANT) or None
        if meaning is Meaning.SUCCEEDED:
            amount_minor, said_currency = self._amount(document)
            if form.merchant and merchant is None:
                raise DocumentInvalid("without a merchant")
        return ProviderResult(
            status=_STATUSES[meaning],
            provider_reference=_text_at(document, form.provider_reference, _REFERENCE),
            failure_reason=self._reason(document, PROVIDER_DECLINED) if meaning is Meaning.FAILED else "",
            amount_minor=amount_minor,
            currency=said_currency,
            merchant=merchant,
        )

    def _amount(self, document: Any) -> tuple[int | None, str | None]:
        """(minor units, currency) as far as declared; what is declared has to be there."""
        form = self._form
        if not form.currency:
            return None, None
        currency = find(document, form.currency)
        if not isinstance(currency, str) or not is_currency(currency):
            raise DocumentInvalid("without a currency")
        if not form.amount:
            return None, str(currency)
        value = find(document, form.amount)
        if value is None:
            raise DocumentInvalid("without an amount")
        return read_amount(value, str(currency), self._amount_format), str(currency)

    def _refused(self, document: Any, order: ChannelOrder) -> ProviderResult:
        """A refusal need not repeat the order; where it names one, it has to be this."""
        form = self._form
        named = find_text(document, form.reference) if form.tied_by == "order_id" and form.reference else None
        if named is not None and named != order.id:
            raise DocumentInvalid("of another order")
        return ProviderResult(status=ResultStatus.FAILED, failure_reason=self._reason(document, PROVIDER_REFUSED))

    def _reason(self, document: Any, otherwise: str) -> str:
        """The reason that the failure code stands for; or else the result code."""
        for path in (self._form.failure_code, self._form.result_code):
            code = find_text(document, path) if path else None
            if code is not None and code in self._reasons:
                return self._reasons[code]
        return otherwise


def _notification_id(document: Any, body: bytes, path: str) -> str:
    """The provider's id of a notification; where it has none, the digest of its body. DocumentInvalid."""
    if not path:
        return hashlib.sha256(body).hexdigest()
    found = _text_at(document, path, _NOTIFICATION_ID)
    if not found:
        raise DocumentInvalid("without an id")
    return found


def _text_at(document: Any, path: str, form: re.Pattern[str]) -> str:
    """The text at ``path``, empty where nothing stands there; DocumentInvalid where it is not of its form."""
    text = find_text(document, path) if path else None
    if text is not None and form.fullmatch(text) is None:
        raise DocumentInvalid("a reference of strange form")
    return text or ""


def _parsed_or_none(body: bytes) -> Any:
    try:
        return parse_document(body)
    except DocumentInvalid:
        return None
