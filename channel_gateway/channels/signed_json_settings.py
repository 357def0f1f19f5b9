"""What a channel to a provider that speaks signed JSON over HTTP is told: ``docs/channels.md`` has it by tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from channel_gateway.channel_order import ChannelOrderKind
from channel_gateway.channel_settings import (
    Acknowledgement,
    ChannelSettings,
    KeyId,
    ProviderAccountSettings,
    SecretSettings,
)
from channel_gateway.channels.signed_json_amounts import AmountFormat
from channel_gateway.channels.signed_json_answer_settings import AnswerSettings, FailureReason, NotificationSettings
from channel_gateway.channels.signed_json_document import JsonPath, colliding
from channel_gateway.channels.signed_json_signature_settings import ProviderSignatureSettings, RequestSignatureSettings
from channel_gateway.channels.signed_json_templates import (
    BodyTemplate,
    HeaderTemplate,
    PathTemplate,
    StatementPathTemplate,
    parse,
)
from channel_gateway.channels.signed_json_times import TimeFormat
from paykit.settings import Section

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
_MADE_HERE = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-type", "accept-encoding"})


def _not_of_http(name: str) -> str:
    if name.lower() in _MADE_HERE:
        raise ValueError("is made here")
    return name


HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$"), AfterValidator(_not_of_http)]
_KINDS = "CHARGE|REFUND|PAYOUT|AUTHORIZE|CAPTURE|VOID"
CallName = Annotated[str, StringConstraints(pattern=rf"^(QUERY|(QUERY_)?({_KINDS}))$")]
QUERY = "QUERY"

# Over TLS, except on this machine.
_BASE_URL = re.compile(
    r"(https:/{2}[A-Za-z0-9.-]+|http:/{2}(localhost|127\.0\.0\.1))(:[0-9]{1,5})?(/[A-Za-z0-9_.~-]+)*/?"
)
# Which placeholders name an earlier order: what goes back to, or on with, it has to carry one.
_ORIGINAL = frozenset({"original_order_id", "original_provider_reference"})
_FOLLOWING = frozenset({"REFUND", "CAPTURE", "VOID"})


class SignedJsonAccountSettings(ProviderAccountSettings):
    """An account. ``api_key`` signs requests: the secret of an HMAC, or a private key in PEM. ``notification_keys``
    are what the provider signs with, answers as well: secrets, or public keys in PEM."""

    key_id: KeyId | Literal[""] = ""  # by what name the provider knows ``api_key``
    notification_keys: dict[KeyId, SecretSettings] = Field(default_factory=dict, max_length=2)
    values: dict[Name, str] = Field(default_factory=dict, max_length=20)  # {values.NAME} in templates
    secrets: dict[Name, SecretSettings] = Field(default_factory=dict, max_length=5)  # in headers only

    def all_secrets(self) -> list[SecretSettings]:
        return [*super().all_secrets(), *self.secrets.values()]

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, base_url: str) -> str:
        if _BASE_URL.fullmatch(base_url) is None:
            raise ValueError("must be https, except on this machine, with a host, and no more than a port and a path")
        return base_url

    @field_validator("values")
    @classmethod
    def _plain(cls, values: dict[str, str]) -> dict[str, str]:
        for name, value in values.items():
            if not value or len(value) > 200 or not value.isascii() or not value.isprintable():
                raise ValueError(f"{name}: needs 1 to 200 printable ASCII characters")
        return values


class CallSettings(Section):
    """One call to the provider. ``body``: what stands at each JSON path; empty texts are left out of it.

    ``answer``: what of this call's answers differs from the channel's ``answers``.
    """

    method: Literal["GET", "POST", "PUT"] = "POST"
    path: PathTemplate
    headers: dict[HeaderName, HeaderTemplate] = Field(default_factory=dict, max_length=20)
    body: dict[JsonPath, BodyTemplate | bool | int] = Field(default_factory=dict, max_length=60)
    answer: AnswerSettings = AnswerSettings()

    @field_validator("body", mode="before")
    @classmethod
    def _no_floats(cls, body: Any) -> Any:
        if isinstance(body, dict):
            floats = [str(path) for path, value in body.items() if isinstance(value, float)]
            if floats:
                raise ValueError(f"{floats[0]}: a constant is a text, an integer, true or false")
        return body

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        path = colliding(list(self.body))
        if path:
            raise ValueError(f"body: {path} leads through another path of it")
        if self.method == "GET" and self.body:
            raise ValueError("a GET has no body")
        return self

    def placeholders(self) -> Iterator[str]:
        """All that it carries."""
        texts = [self.path, *self.headers.values(), *(text for text in self.body.values() if isinstance(text, str))]
        for text in texts:
            yield from parse(text).names


class StatementSettings(Section):
    """How a day's statement is asked for: a GET, with the headers of every call that need no order, signed likewise."""

    format: Literal["csv", "camt053", "mt940"]
    path: StatementPathTemplate  # {date}: 2026-11-29
    not_ready_statuses: frozenset[Annotated[int, Field(ge=400, le=499)]] = frozenset({404})

    @field_validator("path")
    @classmethod
    def _names_the_day(cls, path: str) -> str:
        if "date" not in parse(path).names:
            raise ValueError("carries no {date}")
        return path


class SignedJsonChannelSettings(SignedJsonAccountSettings, ChannelSettings):
    """A channel that needs no code: a bank or wallet whose calls, answers and notifications are described.

    ``operations`` are those that ``calls`` has, where left out.
    """

    kind: Literal["signed_json"] = "signed_json"
    operations: frozenset[ChannelOrderKind] = frozenset()
    shadow: SignedJsonAccountSettings | None = None
    amount_format: AmountFormat
    time_format: TimeFormat = TimeFormat.UNIX_S
    utc_offset_minutes: Annotated[int, Field(ge=-1080, le=1080)] = 0  # of the times that name no zone
    answer_bytes_max: Annotated[int, Field(ge=256, le=1_048_576)] = 65_536
    headers: dict[HeaderName, HeaderTemplate] = Field(default_factory=dict, max_length=20)  # of every call
    request_signature: RequestSignatureSettings | None = None  # None: not signed; a secret in a header then
    answer_signature: ProviderSignatureSettings | None = None  # None: the provider does not sign answers
    calls: Annotated[dict[CallName, CallSettings], Field(min_length=2)]
    answers: AnswerSettings
    failure_reasons: dict[str, FailureReason] = Field(default_factory=dict, max_length=500)
    notifications: NotificationSettings | None = None  # None: the provider sends none
    statement: StatementSettings | None = None  # None: it hands none over

    @model_validator(mode="before")
    @classmethod
    def _operations_are_what_is_called(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("operations") and isinstance(data.get("calls"), dict):
            kinds = [kind.value for kind in ChannelOrderKind if kind.value in data["calls"]]
            return data | {"operations": kinds}
        return data

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for problem in (
            *self._problems_of_calls(),
            *self._problems_of_signatures(),
            *self._problems_of_statements(),
            *self._problems_of_answers(),
            *self._problems_of_accounts(),
        ):
            raise ValueError(problem)
        return self

    def acknowledgement_of(self) -> Acknowledgement:
        if self.notifications is None:
            return Acknowledgement()
        said = self.notifications.acknowledgement
        return Acknowledgement(said.body, said.content_type)

    def form_of(self, name: str) -> AnswerSettings:
        """What a call's answers look like."""
        return self.answers.merged(self.calls[name].answer)

    def _problems_of_calls(self) -> Iterator[str]:
        if QUERY not in self.calls:
            yield f"calls.{QUERY}: is missing; what came of an order has to be asked for"
        for kind in self.operations:
            if kind.value not in self.calls:
                yield f"calls.{kind.value}: is missing; operations has it"
        for name, call in self.calls.items():
            about = name.removeprefix(f"{QUERY}_")
            if name != QUERY and about not in self.operations:
                yield f"calls.{name}: operations has no {about}"
            carried = {*call.placeholders(), *(p for text in self.headers.values() for p in parse(text).names)}
            if "order_id" not in carried:
                yield f"calls.{name}: carries no {{order_id}}, so the provider could not tell orders apart"
            if not name.startswith(QUERY):
                if "amount" not in carried and name != ChannelOrderKind.VOID:
                    yield f"calls.{name}: carries no {{amount}}"
                if name in _FOLLOWING and not _ORIGINAL & carried:
                    yield f"calls.{name}: names no original order"
                if name not in _FOLLOWING and "token" not in carried:
                    yield f"calls.{name}: carries no {{token}}"
            if "provider_reference" in parse(call.path).names:
                yield f"calls.{name}.path: {{provider_reference}} is not known while an answer is"

    def _problems_of_signatures(self) -> Iterator[str]:
        signature = self.request_signature
        has_secret = False
        for owner, headers in (
            ("headers", self.headers),
            *((f"calls.{n}.headers", c.headers) for n, c in self.calls.items()),
        ):
            names = {name for text in headers.values() for name in parse(text).names}
            has_secret = has_secret or any(name.startswith("secrets.") for name in names)
            if "signature" in names and (signature is None or signature.field):
                yield f"{owner}: {{signature}} is made by request_signature, without a field"
        if signature is None:
            if not has_secret:
                yield "request_signature: is missing, and no header has a secret: the provider could not know us"
            return
        in_headers = any("signature" in parse(text).names for text in self.headers.values())
        if not signature.field and not in_headers:
            yield "headers: none carries the {signature}"
        for name, call in self.calls.items():
            if signature.field and not call.body:
                yield f"calls.{name}: has no body that could carry {signature.field}"
            if signature.field in call.body:
                yield f"calls.{name}.body: {signature.field} is the signature's"
            if "sorted_fields" in parse(signature.signed).names:
                if not call.body:
                    yield f"calls.{name}: has no body, and request_signature signs the fields of one"
                if any("." in path for path in call.body):
                    yield f"calls.{name}.body: sorted fields are signed, so it must be flat"
                if any("&" in text for text in call.body.values() if isinstance(text, str)):
                    yield f"calls.{name}.body: sorted fields are signed, so that no text of it may hold an &"
            if not call.body and "path" not in parse(signature.signed).names:
                yield f"calls.{name}: nothing of it is signed"

    def _problems_of_statements(self) -> Iterator[str]:
        signature = self.request_signature
        if self.statement is None or signature is None:
            return
        signed = parse(signature.signed).names
        if signature.field or "path" not in signed or "sorted_fields" in signed:
            yield "statement: a GET has no body, and request_signature signs one"
        if "order_id" in signed:
            yield "statement: request_signature signs an {order_id}, and a statement is of no order"

    def _problems_of_answers(self) -> Iterator[str]:
        for name in self.calls:
            for problem in self.form_of(name).problems(self.amount_format):
                yield f"calls.{name}.answer: {problem}"
        if self.notifications is not None:
            form = self.answers.merged(self.notifications)
            for problem in (*form.problems(self.amount_format), *self.notifications.notification_problems(form)):
                yield f"notifications: {problem}"

    def _problems_of_accounts(self) -> Iterator[str]:
        templates = [*self.headers.values(), *(t for c in self.calls.values() for t in (c.path, *c.headers.values()))]
        templates += [] if self.statement is None else [self.statement.path]
        templates += [text for call in self.calls.values() for text in call.body.values() if isinstance(text, str)]
        names = {name for text in templates for name in parse(text).names}
        signed = set() if self.request_signature is None else set(parse(self.request_signature.signed).names)
        for under, account in (("", self), ("shadow.", self.shadow)):
            if account is None:
                continue
            for name in sorted(names):
                group, _, key = name.partition(".")
                if key and key not in (account.values if group == "values" else account.secrets):
                    yield f"{under}{name}: is missing; a template has it"
            if "merchant_id" in names | signed and not account.merchant_id:
                yield f"{under}merchant_id: is missing; a template has it"
            if "sorted_fields" in signed and any("&" in value for value in account.values.values()):
                yield f"{under}values: sorted fields are signed, so that none may hold an &"
            if "key_id" in names | signed and not account.key_id:
                yield f"{under}key_id: is missing; a template has it"
            if (self.answer_signature or self.notifications) and not account.notification_keys:
                yield f"{under}notification_keys: is missing; the provider signs"
