"""What the channel gateway is told at start."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, StringConstraints, Tag

from channel_gateway.channels.sandbox_settings import SandboxChannelSettings
from channel_gateway.channels.signed_json_settings import SignedJsonChannelSettings
from channel_gateway.channels.stripe_settings import StripeChannelSettings
from paykit.settings import Address, Count, ServiceSettings

ChannelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]

_DEFAULT_KIND = "sandbox"


def _kind(value: Any) -> str:
    kind = value.get("kind", _DEFAULT_KIND) if isinstance(value, dict) else getattr(value, "kind", _DEFAULT_KIND)
    return str(kind)


# By ``kind``, sandbox where it is left out. One class a kind: a line here, one in channels.CHANNELS.
AnyChannelSettings = Annotated[
    Annotated[SandboxChannelSettings, Tag("sandbox")]
    | Annotated[SignedJsonChannelSettings, Tag("signed_json")]
    | Annotated[StripeChannelSettings, Tag("stripe")],
    Discriminator(_kind),
]


class ChannelGatewaySettings(ServiceSettings):
    """The channel gateway's part of the settings file."""

    channels: Annotated[dict[ChannelName, AnyChannelSettings], Field(min_length=1, max_length=100)]
    notification_listen: Address
    notifications_in_flight_max: Count = 256  # beyond it 503, and the provider comes again
    compensation_callers: tuple[str, ...] = ("recon",)  # common names, as shell patterns, that may have repairs done
