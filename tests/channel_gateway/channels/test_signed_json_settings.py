"""Settings of a described channel: what makes no sense stops the gateway at its start, and is named by its key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydantic import ValidationError

from channel_gateway.channels import ChannelSet
from channel_gateway.channels.signed_json_settings import SignedJsonChannelSettings
from channel_gateway.settings import ChannelGatewaySettings
from paykit.errors import ConfigurationError
from paykit.settings import Section, load
from tests.channel_gateway.channels.bank_rig import SECRETS
from tests.channel_gateway.channels.page import channels_of_page, with_secrets

BANK: dict[str, Any] = with_secrets(channels_of_page()["harbour_bank"], SECRETS)
GONE = object()


class Whole(Section):
    channel_gateway: ChannelGatewaySettings


def loaded(folder: Path, bank: dict[str, Any], environ: dict[str, str] | None = None) -> SignedJsonChannelSettings:
    """The bank as a settings file says it."""
    path = folder / "paymesh.toml"
    gateway = {
        "listen": "127.0.0.1:0",
        "notification_listen": "127.0.0.1:0",
        "shards": {"s0": {"live": "sqlite+aiosqlite:///s0.db"}},
        "channels": {"bank": bank},
    }
    path.write_text(tomli_w.dumps({"channel_gateway": gateway}))
    settings = load(Whole, path, environ or {}).channel_gateway.channels["bank"]
    assert isinstance(settings, SignedJsonChannelSettings)
    return settings


def changed(key: str, value: Any) -> dict[str, Any]:
    """The bank with another value at a dotted key; keys of bodies, which hold dots, come after a ``:``."""
    bank = copy.deepcopy(BANK)
    table = bank
    head, _, rest = key.partition(":")
    *parents, last = [*head.split("."), *([rest] if rest else [])]
    for parent in parents:
        table = table.setdefault(parent, {})
    if value is GONE:
        del table[last]
    else:
        table[last] = value
    return bank


def test_operations_are_those_that_are_called_where_they_are_left_out(tmp_path: Path) -> None:
    assert len(loaded(tmp_path, BANK).operations) == 6
    without_void = changed("calls.VOID", GONE)
    assert len(loaded(tmp_path, without_void).operations) == 5
    assert len(loaded(tmp_path, without_void | {"operations": ["CHARGE", "REFUND"], "calls": _some()}).operations) == 2


def _some() -> dict[str, Any]:
    return {name: BANK["calls"][name] for name in ("CHARGE", "REFUND", "QUERY")}


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("base_url", "ftp://bank.example", "base_url: "),
        ("base_url", "http://bank.example", "base_url: must be https"),
        ("base_url", "http://127.0.0.1.bank.example", "base_url: must be https"),
        ("shadow.base_url", "http://bank.example", "shadow.base_url: must be https"),
        ("base_url", "https://user@bank.example", "base_url: "),
        ("base_url", "https://bank.example/?a=b", "base_url: "),
        ("amount_format", "float", "amount_format: "),
        ("time_format", "rfc822", "time_format: "),
        ("calls.CHARGE.path", "/v2/{token}", "calls.CHARGE.path: "),
        ("calls.CHARGE.path", "/v2/{provider_reference}", "calls.CHARGE.path: {provider_reference}"),
        ("calls.CHARGE.method", "DELETE", "calls.CHARGE.method: "),
        ("calls.CHARGE.body:order.amount.value", 10.5, "order.amount.value: a constant is"),
        ("calls.CHARGE.body:order", "{order_id}", "leads through another"),
        ("calls.CHARGE.body:a b", "x", "a b: "),
        ("calls.CHARGE.body:order.amount.value", "10.00", "calls.CHARGE: carries no {amount}"),
        ("calls.CHARGE.body:source.token", GONE, "calls.CHARGE: carries no {token}"),
        ("calls.REFUND.path", "/v2/refunds", "calls.REFUND: names no original"),
        ("calls.QUERY", GONE, "calls.QUERY: is missing"),
        ("calls.QUERY.body", {"a": "b"}, "a GET has no body"),
        ("calls.STEAL", {"path": "/"}, "calls.STEAL: "),
        ("operations", ["CHARGE"], "operations has no "),
        ("calls.CHARGE.answer", {"state": "x", "states": {}}, "calls.CHARGE.answer: state and states"),
        ("headers.X-Signature", GONE, "headers: none carries the {signature}"),
        ("headers.Content-Length", "0", "headers.Content-Length: "),
        ("calls.CHARGE.headers", {"host": "x"}, "calls.CHARGE.headers.host: "),
        ("headers.X Y", "0", "headers.X Y: "),
        ("request_signature.signed", "{path}\n{sorted_fields}", "must be flat"),
        ("headers.X-Token", "{secrets.token}", "secrets.token: is missing"),
        ("headers.X-App", "{values.app}", "values.app: is missing"),
        ("request_signature", GONE, "{signature} is made by request_signature"),
        ("request_signature.signed", "{path}", "request_signature.signed: "),
        ("request_signature.field", "sign", "request_signature"),
        ("request_signature.scheme", "md5", "request_signature.scheme: "),
        ("answers.http_statuses.503", "NOT_SENT", "http_statuses: "),
        ("answers.http_statuses.302", "ANSWER", "http_statuses: "),
        ("answers.http_statuses.999", "ANSWER", "http_statuses.999: "),
        ("answers.states.MAYBE", "PERHAPS", "answers.states.MAYBE: "),
        ("answers.state", GONE, "state and states: are missing"),
        ("answers.reference", GONE, "reference: is missing"),
        ("answers.currency", GONE, "currency: is missing"),
        ("answers.result_codes", GONE, "result_codes: is missing"),
        ("answers.tied_by", "call", "notifications: tied_by"),
        ("failure_reasons.05", "not a constant", "failure_reasons.05: "),
        ("notifications.signature.headers", {"X": "{signature}"}, "{timestamp} is signed"),
        ("notification_keys", GONE, "notification_keys: is missing"),
        ("shadow.notification_keys", GONE, "shadow.notification_keys: is missing"),
        ("shadow.key_id", GONE, "shadow.key_id: is missing"),
        ("key_id", GONE, "key_id: is missing"),
        ("values", {"app": "two\nlines"}, "values: "),
        ("statement.path", "/v2/statements", "statement.path: "),
        ("statement.path", "/v2/statements/{date}/{order_id}", "statement.path: "),
        ("statement.format", "pdf", "statement.format: "),
        ("request_signature.signed", "{order_id}\n{path}\n{body}", "statement: request_signature signs an {order_id}"),
        ("surprise", 1, "surprise: unknown key"),
        ("answers.surprise", 1, "answers.surprise: unknown key"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_key(tmp_path: Path, key: str, value: Any, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, changed(key, value))
    assert named in str(caught.value)
    assert "channel_gateway.channels.bank" in str(caught.value)
    assert "signed_json" not in str(caught.value)
    assert not any(secret in str(caught.value) for secret in SECRETS.values())


@pytest.mark.parametrize(
    ("path", "text", "named"),
    [
        ("note", "a & b", "no text of it may hold an &"),
        ("deep.note", "a", "must be flat"),
        ("sign", "a", "sign is the signature's"),
    ],
)
def test_fields_that_are_sorted_and_signed_are_flat_and_unambiguous(path: str, text: str, named: str) -> None:
    wallet = copy.deepcopy(channels_of_page()["lotus_wallet"])
    wallet["calls"]["CHARGE"]["body"][path] = text
    with pytest.raises(ValidationError, match=named):
        SignedJsonChannelSettings.model_validate(wallet)


def test_a_merchant_id_that_a_template_has_must_be_there(tmp_path: Path) -> None:
    bank = changed("headers.X-Merchant", "{merchant_id}")
    assert loaded(tmp_path, bank).merchant_id
    del bank["merchant_id"]
    with pytest.raises(ConfigurationError, match="merchant_id: is missing"):
        loaded(tmp_path, bank)


def test_a_variable_overrides_a_key_of_it(tmp_path: Path) -> None:
    prefix = "PAYMESH_CHANNEL_GATEWAY__CHANNELS__BANK__"
    environ = {f"{prefix}API_KEY__VALUE": "from-the-environment", f"{prefix}ANSWER_BYTES_MAX": "1024"}
    settings = loaded(tmp_path, changed("api_key", GONE), environ)
    assert (settings.api_key.read(), settings.answer_bytes_max) == ("from-the-environment", 1024)


@pytest.mark.parametrize(
    ("key", "named"),
    [("api_key", r"bank\.api_key"), ("notification_keys.bank-1", r"bank\.notification_keys\.bank-1")],
)
def test_a_key_that_is_none_is_named_when_the_channels_are_made(tmp_path: Path, key: str, named: str) -> None:
    settings = loaded(tmp_path, changed(key, {"value": "short"}))
    with pytest.raises(ConfigurationError, match=named):
        ChannelSet({"bank": settings})


def test_every_secret_of_an_account_is_known_as_one(tmp_path: Path) -> None:
    bank = changed("secrets", {"token": {"value": "a-bearer"}})
    read = {secret.read() for secret in loaded(tmp_path, bank).all_secrets()}
    assert read == {SECRETS["harbour_requests"], SECRETS["harbour_bank_1"], SECRETS["harbour_bank_2"], "a-bearer"}
    assert "a-bearer" not in repr(loaded(tmp_path, bank))
