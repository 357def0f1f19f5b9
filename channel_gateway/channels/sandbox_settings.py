"""What a channel to the sandbox provider is told beyond what every channel is."""

from __future__ import annotations

from typing import Literal

from channel_gateway.channel_settings import ChannelSettings


class SandboxChannelSettings(ChannelSettings):
    """A channel to the sandbox provider."""

    kind: Literal["sandbox"] = "sandbox"
    statement_format: Literal["csv", "camt053", "mt940"] | None = None  # of the statements it hands over; none
