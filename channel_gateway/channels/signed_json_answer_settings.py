"""Where in a provider's answers and notifications stands what, and what its states and codes mean."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator

from channel_gateway.channels.signed_json_amounts import AmountFormat
from channel_gateway.channels.signed_json_document import JsonPath
from channel_gateway.channels.signed_json_signature_settings import ProviderSignatureSettings
from paykit.settings import Section

FailureReason = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,31}$")]
_Path = JsonPath | Literal[""]
_Said = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_HttpStatus = Annotated[int, Field(ge=200, le=599)]


class Meaning(StrEnum):
    """What a state says of an order."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    PENDING = "PENDING"
    NOT_FOUND = "NOT_FOUND"
    UNKNOWN = "UNKNOWN"


class CodeMeaning(StrEnum):
    """What a result code says of a call."""

    STATE = "STATE"  # the call was taken: the state says the rest
    FAILED = "FAILED"  # refused, and nothing was done
    NOT_FOUND = "NOT_FOUND"  # of a query: there is no such order
    NOT_SENT = "NOT_SENT"  # nothing was done, and the same call may be made again
    UNKNOWN = "UNKNOWN"


class StatusMeaning(StrEnum):
    """What an HTTP status says of a call."""

    ANSWER = "ANSWER"  # the body says it
    FAILED = "FAILED"
    NOT_SENT = "NOT_SENT"


class AnswerSettings(Section):
    """Paths into an answer, empty where it does not say a thing, and tables of what it may say.

    Whatever no table has is unknown, never failed. ``state`` may be several paths: their values are joined by ``/``.
    """

    http_statuses: dict[_HttpStatus, StatusMeaning] = Field(
        default_factory=lambda: {200: StatusMeaning.ANSWER}, max_length=100
    )
    result_code: _Path = ""  # of the call itself; an answer without one speaks by its state
    result_codes: dict[_Said, CodeMeaning] = Field(default_factory=dict, max_length=500)
    state: Annotated[tuple[JsonPath, ...], Field(max_length=4)] = ()
    states: dict[_Said, Meaning] = Field(default_factory=dict, max_length=200)
    # By what an answer is of this order: its id at ``reference``; the request's nonce there; or, where the provider
    # repeats nothing, that it is the answer to the call.
    tied_by: Literal["order_id", "nonce", "call"] = "order_id"
    reference: _Path = ""
    provider_reference: _Path = ""
    amount: _Path = ""
    currency: _Path = ""
    merchant: _Path = ""
    failure_code: _Path = ""
    livemode: _Path = ""
    livemode_values: dict[_Said, bool] = Field(default_factory=lambda: {"true": True, "false": False}, max_length=10)

    @field_validator("state", mode="before")
    @classmethod
    def _one_is_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("http_statuses")
    @classmethod
    def _what_is_never_certain(cls, statuses: dict[int, StatusMeaning]) -> dict[int, StatusMeaning]:
        for status in statuses:
            if status == 408 or 300 <= status < 400 or status >= 500:
                raise ValueError(f"{status}: whether anything was done is never known of it")
        return statuses

    def merged(self, other: AnswerSettings) -> AnswerSettings:
        """This, with what ``other`` sets in its place."""
        names = other.model_fields_set & set(AnswerSettings.model_fields)
        return AnswerSettings.model_construct(
            **{name: getattr(other if name in names else self, name) for name in AnswerSettings.model_fields}
        )

    def problems(self, amount_format: AmountFormat) -> Iterator[str]:
        """What is missing of it, once merged."""
        if not self.state or not self.states:
            yield "state and states: are missing"
        if self.tied_by != "call" and not self.reference:
            yield "reference: is missing; or say how else it is tied_by"
        if self.amount and not self.currency:
            yield "currency: is missing, and an amount without it says nothing"
        if self.result_code and not self.result_codes:
            yield "result_codes: is missing; result_code has no meaning without it"


class AcknowledgementSettings(Section):
    """What a notification is answered with, once it is stored."""

    body: Annotated[str, StringConstraints(max_length=200)] = ""
    content_type: Annotated[str, StringConstraints(pattern=r"^[a-z]+/[a-z0-9.+-]+$")] = "text/plain"


class NotificationSettings(AnswerSettings):
    """What of notifications differs from ``answers``, how they are signed, and what they are answered with.

    ``notification_id``: left out, it is the digest of the body.
    """

    signature: ProviderSignatureSettings
    notification_id: _Path = ""
    acknowledgement: AcknowledgementSettings = AcknowledgementSettings()

    def notification_problems(self, form: Self | AnswerSettings) -> Iterator[str]:
        """What is missing of it; ``form``: merged with the answers' settings."""
        if not self.signature.has_timestamp:
            yield "signature.headers: no {timestamp}, so that an old notification could be sent again"
        if form.tied_by != "order_id":
            yield "tied_by: a notification has to name its order"
