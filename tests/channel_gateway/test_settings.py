"""What the channel gateway's settings accept, and how secrets come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from channel_gateway.channel_settings import SecretSettings
from channel_gateway.channels.sandbox_settings import SandboxChannelSettings
from channel_gateway.settings import ChannelGatewaySettings
from paykit.errors import ConfigurationError
from tests.channel_gateway.gateway import channel_settings

BASE = channel_settings("http://127.0.0.1:1")
GATEWAY = {
    "listen": "127.0.0.1:0",
    "shards": {"s0": {"live": "sqlite+aiosqlite:///s0.db"}},
    "notification_listen": "127.0.0.1:0",
}


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"kind": "no_such"},
        {"operations": ["CHARGE", "STEAL"]},
        {"query_ladder_s": []},
        {"query_ladder_s": [0]},
        {"timeout_s": 0},
        {"max_in_flight": 0},
        {"captures_max": 0},
        {"base_url": "not a url"},
        {"api_key": {}},
        {"api_key": {"value": "x", "file": "/y"}},
        {"notification_keys": {}},
        {"notification_keys": {f"k{n}": {"value": "x"} for n in range(3)}},
        {"not_found_certain_after_s": 15.9, "timeout_s": 1.0},
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SandboxChannelSettings.model_validate(BASE | changes)


@pytest.mark.parametrize("channel", [BASE, BASE | {"kind": "sandbox"}])
def test_a_channel_is_of_the_kind_it_names_and_of_the_sandbox_where_it_names_none(channel: dict[str, Any]) -> None:
    settings = ChannelGatewaySettings.model_validate(GATEWAY | {"channels": {"bank": channel}})
    assert type(settings.channels["bank"]) is SandboxChannelSettings


def test_an_unknown_kind_is_refused_by_its_name() -> None:
    with pytest.raises(ValidationError, match=r"'barter'.*'sandbox'"):
        ChannelGatewaySettings.model_validate(GATEWAY | {"channels": {"bank": BASE | {"kind": "barter"}}})


def test_a_secret_is_read_from_its_file_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("from-file\n")
    assert SecretSettings(file=path).read() == "from-file"
    shown = repr(SandboxChannelSettings.model_validate(BASE))
    assert "secret" not in shown.replace("SecretSettings", "").replace("SecretStr", "")


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_secret_file_that_is_missing_or_empty_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=str(path)):
        SecretSettings(file=path).read()


def test_absence_may_be_certain_well_after_a_call_was_given_up() -> None:
    changes = {"not_found_certain_after_s": 16.0, "timeout_s": 1.0}
    assert SandboxChannelSettings.model_validate(BASE | changes).policy().not_found_certain_after_ms == 16_000


def test_times_become_milliseconds() -> None:
    policy = SandboxChannelSettings.model_validate(BASE | {"timeout_s": 1.5, "query_ladder_s": [0.5, 2]}).policy()
    assert policy.query_ladder_ms == (500, 2_000)
    assert policy.sending_ms == 6_500
    assert policy.not_found_certain_after_ms is None
