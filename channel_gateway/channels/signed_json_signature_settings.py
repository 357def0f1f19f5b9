"""How requests are signed, and how a provider signs its answers and notifications."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from channel_gateway.channels.signed_json_document import JsonPath
from channel_gateway.channels.signed_json_keys import Scheme, SecretEncoding, SignatureEncoding
from channel_gateway.channels.signed_json_templates import (
    SignatureHeaderTemplate,
    SignedByProviderTemplate,
    SignedRequestTemplate,
    parse,
)
from channel_gateway.channels.signed_json_times import TimeFormat
from paykit.settings import Section

FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_@$-]{1,64}$")]
_RAW_BODIES = frozenset({"body", "body_sha256_hex", "body_sha256_base64"})


class RequestSignatureSettings(Section):
    """How requests are signed: ``signed`` with the account's ``api_key``. The signature stands where a header says
    ``{signature}``, or in ``field`` of the body."""

    scheme: Scheme
    secret_encoding: SecretEncoding = SecretEncoding.TEXT
    encoding: SignatureEncoding = SignatureEncoding.HEX
    signed: SignedRequestTemplate
    field: FieldName | Literal[""] = ""
    unsigned_fields: frozenset[FieldName] = frozenset()  # which sorted_fields leaves out, beside ``field``

    @model_validator(mode="after")
    def _can_be_in_the_body(self) -> Self:
        if self.field and _RAW_BODIES & set(parse(self.signed).names):
            raise ValueError("signed: the whole body cannot be signed by what stands in it; take {sorted_fields}")
        return self


class ProviderSignatureSettings(Section):
    """How the provider signs. ``headers``: what each header holds, with {signature}, {timestamp}, {nonce} and {key_id}.
    ``fields``: which of these stand in the body, and at which path. Without a key's id every key is tried."""

    scheme: Scheme
    secret_encoding: SecretEncoding = SecretEncoding.TEXT
    encoding: SignatureEncoding = SignatureEncoding.HEX
    signed: SignedByProviderTemplate
    headers: dict[FieldName, SignatureHeaderTemplate] = Field(default_factory=dict, max_length=8)
    fields: dict[Literal["signature", "timestamp", "nonce", "key_id"], JsonPath] = Field(default_factory=dict)
    unsigned_fields: frozenset[FieldName] = frozenset()  # which sorted_fields leaves out, beside the signature's own
    time_format: TimeFormat | None = None  # where it is another one than the channel's

    @model_validator(mode="after")
    def _says_all_that_is_signed(self) -> Self:
        in_headers = [name for form in self.headers.values() for name in parse(form).names]
        found = [*in_headers, *self.fields]
        if len(set(found)) != len(found):
            raise ValueError("headers and fields: one of them says a thing twice")
        if "signature" not in found:
            raise ValueError("headers: no header and no field holds the {signature}")
        signed = set(parse(self.signed).names)
        for name in ("timestamp", "nonce", "key_id"):
            if name in signed and name not in found:
                raise ValueError(f"headers: {{{name}}} is signed, and no header and no field holds it")
        if "signature" in self.fields and _RAW_BODIES & signed:
            raise ValueError("signed: the whole body cannot be signed by what stands in it; take {sorted_fields}")
        if "timestamp" in in_headers and "timestamp" not in signed:
            raise ValueError("signed: lacks the {timestamp}: anybody could set a new one")
        return self

    @model_validator(mode="after")
    def _signs_its_timestamp(self) -> Self:
        path = self.fields.get("timestamp")
        is_raw = _RAW_BODIES & set(parse(self.signed).names)
        if path is not None and not is_raw and (path in self.unsigned_fields or "." in path):
            raise ValueError(f"fields.timestamp: {path} is not signed: anybody could set a new one")
        return self

    @property
    def has_timestamp(self) -> bool:
        """Whether it says when it was signed."""
        return "timestamp" in self.fields or any("timestamp" in parse(form).names for form in self.headers.values())

    def left_out(self) -> frozenset[str]:
        """What ``sorted_fields`` leaves out."""
        return self.unsigned_fields | ({self.fields["signature"]} if "signature" in self.fields else set())
