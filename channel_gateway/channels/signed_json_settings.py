"""What a channel to a provider that speaks signed JSON over HTTP is told."""

from __future__ import annotations

from typing import Literal

from channel_gateway.channel_settings import ChannelSettings


class SignedJsonChannelSettings(ChannelSettings):
    """A channel that needs no code: a bank or wallet whose calls, answers and notifications are described."""

    kind: Literal["signed_json"] = "signed_json"
