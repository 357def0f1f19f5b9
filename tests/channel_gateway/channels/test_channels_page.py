"""docs/channels.md says what there is. That its channels work is shown by the contract suite, which runs them."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from channel_gateway.channel_settings import ChannelSettings
from channel_gateway.channels import CHANNELS
from channel_gateway.channels.signed_json_answer_settings import (
    AnswerSettings,
    CodeMeaning,
    Meaning,
    NotificationSettings,
    StatusMeaning,
)
from channel_gateway.channels.signed_json_keys import Scheme, SecretEncoding, SignatureEncoding
from channel_gateway.channels.signed_json_settings import (
    CallSettings,
    SignedJsonAccountSettings,
    SignedJsonChannelSettings,
    StatementSettings,
)
from channel_gateway.channels.signed_json_signature_settings import ProviderSignatureSettings, RequestSignatureSettings
from channel_gateway.channels.signed_json_templates import (
    IN_BODY,
    IN_HEADER,
    IN_PATH,
    IN_SIGNED_BY_PROVIDER,
    IN_SIGNED_REQUEST,
    IN_STATEMENT_PATH,
)
from channel_gateway.settings import ChannelGatewaySettings
from tests.channel_gateway.channels.page import PAGE, channels_of_page
from tests.channel_gateway.test_settings import GATEWAY

TEXT = PAGE.read_text()


@pytest.mark.parametrize(
    "settings",
    [
        ChannelSettings,
        SignedJsonChannelSettings,
        SignedJsonAccountSettings,
        CallSettings,
        RequestSignatureSettings,
        ProviderSignatureSettings,
        AnswerSettings,
        NotificationSettings,
        StatementSettings,
    ],
)
def test_the_page_names_every_setting(settings: type[BaseModel]) -> None:
    assert [name for name in settings.model_fields if f"`{name}`" not in TEXT and f"{name} = " not in TEXT] == []


def test_the_page_names_every_placeholder_meaning_and_scheme() -> None:
    places = IN_PATH | IN_BODY | IN_HEADER | IN_SIGNED_REQUEST | IN_SIGNED_BY_PROVIDER | IN_STATEMENT_PATH
    names = {f"{{{name}NAME}}" if name.endswith(".") else f"{{{name}}}" for name in places}
    assert {name for name in names if name not in TEXT} == set()
    words = [*Meaning, *CodeMeaning, *StatusMeaning, *Scheme, *SignatureEncoding, *SecretEncoding, *CHANNELS]
    assert {word for word in words if f"`{word}`" not in TEXT} == set()


def test_the_channels_of_the_page_are_settings_of_one_gateway() -> None:
    settings = ChannelGatewaySettings.model_validate(GATEWAY | {"channels": channels_of_page()})
    assert {channel.kind for channel in settings.channels.values()} == {"signed_json", "stripe"}
