"""Keys of every scheme, and whose signatures are taken."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.channels.signed_json_keys import (
    Scheme,
    SecretEncoding,
    SignatureEncoding,
    decode_signature,
    encode_signature,
    signing_key,
    verifying_key,
)
from channel_gateway.channels.signed_json_signature_settings import ProviderSignatureSettings
from channel_gateway.channels.signed_json_signatures import Verifier
from channel_gateway.channels.signed_json_times import TimeFormat
from channel_gateway.signature import SignatureInvalid
from paykit.errors import ConfigurationError
from tests.channel_gateway.channels.wallet_rig import private_pem, public_pem

NOW_S = 1_700_000_000
TEXT = SecretEncoding.TEXT


def pem(key: Any) -> tuple[str, str]:
    """(private, public) in PEM."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return private.decode(), key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


ED25519 = pem(ed25519.Ed25519PrivateKey.generate())
OTHER_ED25519 = pem(ed25519.Ed25519PrivateKey.generate())
PAIRS = {
    Scheme.HMAC_SHA256: ("a-secret-of-16-bytes", "a-secret-of-16-bytes"),
    Scheme.RSA_SHA256: (private_pem("ours"), public_pem("ours")),
    Scheme.ED25519: ED25519,
}
OTHERS = {
    Scheme.HMAC_SHA256: "b-secret-of-16-bytes",
    Scheme.RSA_SHA256: public_pem("new"),
    Scheme.ED25519: OTHER_ED25519[1],
}


@pytest.mark.parametrize("encoding", list(SignatureEncoding))
@pytest.mark.parametrize("scheme", list(Scheme))
def test_what_one_key_signs_its_own_verifies_and_no_other(scheme: Scheme, encoding: SignatureEncoding) -> None:
    private, public = PAIRS[scheme]
    text = encode_signature(signing_key(scheme, private, TEXT, "k")(b"data"), encoding)
    signature = decode_signature(text, encoding)
    verify = verifying_key(scheme, public, TEXT, "k")
    assert verify(b"data", signature)
    assert not verify(b"date", signature)
    assert not verify(b"data", signature[:-1])
    assert not verify(b"data", b"")
    assert not verifying_key(scheme, OTHERS[scheme], TEXT, "k")(b"data", signature)


def test_a_secret_may_be_written_in_hex_or_base64() -> None:
    raw = signing_key(Scheme.HMAC_SHA256, "0123456789abcdef", TEXT, "k")(b"x")
    assert signing_key(Scheme.HMAC_SHA256, b"0123456789abcdef".hex(), SecretEncoding.HEX, "k")(b"x") == raw
    assert signing_key(Scheme.HMAC_SHA256, "MDEyMzQ1Njc4OWFiY2RlZg==", SecretEncoding.BASE64, "k")(b"x") == raw


@pytest.mark.parametrize(
    ("scheme", "secret", "encoding"),
    [
        (Scheme.HMAC_SHA256, "short", TEXT),
        (Scheme.HMAC_SHA256, "zz" * 16, SecretEncoding.HEX),
        (Scheme.HMAC_SHA256, "%" * 24, SecretEncoding.BASE64),
        (Scheme.RSA_SHA256, "no pem", TEXT),
        (Scheme.RSA_SHA256, ED25519[0], TEXT),
        (Scheme.RSA_SHA256, pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))[0], TEXT),
        (Scheme.ED25519, private_pem("ours"), TEXT),
        (Scheme.ED25519, pem(ec.generate_private_key(ec.SECP256R1()))[0], TEXT),
        (Scheme.ED25519, ED25519[1], TEXT),
    ],
)
def test_a_key_that_is_none_for_its_scheme_is_named_and_not_shown(
    scheme: Scheme, secret: str, encoding: SecretEncoding
) -> None:
    with pytest.raises(ConfigurationError, match=r"bank\.api_key: ") as caught:
        signing_key(scheme, secret, encoding, "bank.api_key")
    assert secret not in str(caught.value)
    public = pem(ec.generate_private_key(ec.SECP256R1()))[1] if "PRIVATE" in secret else secret
    if scheme is Scheme.HMAC_SHA256 or secret == "no pem" or "PRIVATE" in secret:
        with pytest.raises(ConfigurationError, match=r"bank\.keys: "):
            verifying_key(scheme, public, encoding, "bank.keys")


SIGNED_HEADERS: dict[str, Any] = {
    "scheme": "hmac_sha256",
    "signed": "{timestamp}.{body}",
    "headers": {"X-Signature": "t={timestamp},k={key_id},v={signature}"},
}
SIGNED_FIELDS: dict[str, Any] = {
    "scheme": "hmac_sha256",
    "signed": "{key_id}|{merchant_id}|{sorted_fields}",
    "fields": {"signature": "sign", "timestamp": "at", "key_id": "key"},
}
SECRETS = {"old": "old-secret-000000000", "new": "new-secret-000000000"}


def verifier(settings: dict[str, Any]) -> Verifier:
    keys = {key_id: verifying_key(Scheme.HMAC_SHA256, secret, TEXT, key_id) for key_id, secret in SECRETS.items()}
    return Verifier(ProviderSignatureSettings.model_validate(settings), keys, "M1", TimeFormat.UNIX_S, 0)


def hmac_hex(secret: str, data: bytes) -> str:
    return signing_key(Scheme.HMAC_SHA256, secret, TEXT, "k")(data).hex()


def in_headers(body: bytes, at_s: int = NOW_S, key_id: str = "new", secret: str = "") -> dict[str, str]:
    signature = hmac_hex(secret or SECRETS[key_id], str(at_s).encode() + b"." + body)
    return {"X-Signature": f"t={at_s},k={key_id},v={signature}"}


def in_fields(at: str = str(NOW_S), key_id: str = "new", **fields: Any) -> bytes:
    signed = fields | {"at": at, "key": key_id}
    text = "&".join(f"{key}={value}" for key, value in sorted(signed.items()) if value)
    data = f"{key_id}|M1|{text}".encode()
    return json.dumps(signed | {"sign": hmac_hex(SECRETS["new"], data)}).encode()


@pytest.mark.parametrize("key_id", ["old", "new"])
def test_both_keys_are_taken_by_their_ids(key_id: str) -> None:
    verifier(SIGNED_HEADERS).check(in_headers(b"\xff", key_id=key_id), b"\xff", NOW_S, 300)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "malformed"),
        ({"X-Signature": ""}, "malformed"),
        (in_headers(b"x", secret=SECRETS["old"]), "does not match"),
        ({"X-Signature": in_headers(b"x")["X-Signature"].replace("k=new", "k=none")}, "does not match"),
        ({"X-Signature": in_headers(b"x")["X-Signature"].replace("k=new", "k=old")}, "does not match"),
        ({"X-Signature": in_headers(b"x")["X-Signature"] + "0"}, "does not match"),
        ({"X-Signature": in_headers(b"x")["X-Signature"].replace(str(NOW_S), str(NOW_S + 1))}, "does not match"),
        (in_headers(b"y"), "does not match"),
        (in_headers(b"x", NOW_S - 301), "window"),
        (in_headers(b"x", NOW_S + 301), "window"),
    ],
)
def test_what_is_not_signed_rightly_and_lately_is_refused(headers: Mapping[str, str], reason: str) -> None:
    with pytest.raises(SignatureInvalid, match=reason):
        verifier(SIGNED_HEADERS).check(headers, b"x", NOW_S, 300)


def test_a_signature_in_the_body_covers_its_fields() -> None:
    body = in_fields(state="done", empty="")
    verifier(SIGNED_FIELDS).check({}, body, NOW_S, 300)
    for changed in (
        body.replace(b"done", b"gone"),
        body.replace(b'"new"', b'"old"'),
        body.replace(b'"new"', b'"none"'),
        body.replace(str(NOW_S).encode(), str(NOW_S + 1).encode()),
        body[:-1] + b', "more": 1}',
        in_fields(at=str(NOW_S - 301)),
        in_fields(at="soon"),
        b"{}",
        b"[]",
        b"",
    ):
        with pytest.raises(SignatureInvalid):
            verifier(SIGNED_FIELDS).check({}, changed, NOW_S, 300)


def test_without_a_key_id_every_key_is_tried() -> None:
    settings = SIGNED_HEADERS | {"headers": {"X-Signature": "t={timestamp},v={signature}"}}
    for secret in (*SECRETS.values(), "an-unknown-secret-00"):
        header = in_headers(b"x", secret=secret)["X-Signature"].replace("k=new,", "")
        expected = pytest.raises(SignatureInvalid) if secret.startswith("an") else contextlib.nullcontext()
        with expected:
            verifier(settings).check({"X-Signature": header}, b"x", NOW_S, 300)


@given(st.dictionaries(st.just("X-Signature"), st.text(max_size=60)), st.binary(max_size=60))
def test_any_headers_and_bytes_are_refused_by_name(headers: dict[str, str], body: bytes) -> None:
    for settings in (SIGNED_HEADERS, SIGNED_FIELDS):
        with pytest.raises(SignatureInvalid):
            verifier(settings).check(headers, body, NOW_S, 300)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"headers": {}}, "holds the {signature}"),
        ({"headers": {"X": "{signature}"}}, "{timestamp} is signed"),
        ({"signed": "{body}"}, "lacks the {timestamp}"),
        ({"signed": "{nonce}\n{timestamp}.{body}"}, "{nonce} is signed"),
        ({"fields": {"timestamp": "at"}}, "twice"),
        ({"headers": {"X": "{timestamp}"}, "fields": {"signature": "sign"}}, "what stands in it"),
        ({"scheme": "md5"}, "rsa_sha256"),
        (SIGNED_FIELDS | {"headers": {}, "unsigned_fields": ["at"]}, "is not signed"),
    ],
)
def test_signatures_that_would_prove_nothing_are_refused_at_start(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProviderSignatureSettings.model_validate(SIGNED_HEADERS | changes)
