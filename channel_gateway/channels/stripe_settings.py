"""What a channel to Stripe is told beyond what every channel is."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from channel_gateway.channel_settings import ChannelSettings, ProviderAccountSettings
from paykit.settings import Seconds

# A connected account; nothing else is a merchant to Stripe.
_MERCHANT_PREFIX = "acct_"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class StripeChannelSettings(ChannelSettings):
    """A channel to Stripe, or to any server that speaks its API.

    ``base_url``: without a path, e.g. https://api.stripe.com. ``api_key``: a secret or restricted key, of live mode
    for the channel itself and of test mode for ``shadow``. ``notification_keys``: the signing secrets (whsec_…) of the
    webhook endpoint. ``merchant_id``: the connected account (acct_…) that is acted for; empty for one's own.
    """

    kind: Literal["stripe"] = "stripe"
    stripe_version: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(\.[a-z]+)?$")] = (
        "2026-10-28.endive"
    )
    # Stripe allows fifty, and as many keys in the metadata, where each leaves its mark.
    captures_max: Annotated[int, Field(ge=1, le=45)] = 1
    timeout_s: Seconds = 20.0
    confirm_notifications: bool = True  # events come in any order, and late
    # An hour after it was sent, a payment that neither the search nor the lists know will not come any more.
    not_found_certain_after_s: Seconds | None = 3_600.0
    # How many pages of a hundred a query looks through where the search does not know an order; beyond it, UNKNOWN.
    query_pages_max: Annotated[int, Field(ge=1, le=1_000)] = 20

    @model_validator(mode="after")
    def _keys_are_sent_over_tls(self) -> Self:
        accounts: list[ProviderAccountSettings] = [self, *([self.shadow] if self.shadow is not None else [])]
        for account in accounts:
            address = urlsplit(account.base_url)
            if address.scheme != "https" and address.hostname not in _LOOPBACK:
                raise ValueError("base_url must be https, except on this machine")
        return self

    @model_validator(mode="after")
    def _merchants_are_connected_accounts(self) -> Self:
        accounts: list[ProviderAccountSettings] = [self, *([self.shadow] if self.shadow is not None else [])]
        if any(account.merchant_id and not account.merchant_id.startswith(_MERCHANT_PREFIX) for account in accounts):
            raise ValueError(f"merchant_id must be a connected account ({_MERCHANT_PREFIX}…)")
        return self
