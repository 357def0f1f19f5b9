"""What every kind of channel is told at start. Secrets come from files or variables; no table or log holds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Self

import msgspec
from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from channel_gateway.channel_order import ChannelOrderKind, ChannelPolicy
from channel_gateway.limits.limits_settings import LimitsSettings, MerchantLimitsSettings
from channel_gateway.limits.scope import ScopePolicy
from channel_gateway.routing import Bounds
from paykit.errors import ConfigurationError
from paykit.money import AMOUNT_MINOR_MAX, is_currency
from paykit.settings import Count, Seconds, Section, Url


def _currency(code: str) -> str:
    if not is_currency(code):
        raise ValueError("is no active ISO 4217 currency")
    return code


CurrencyCode = Annotated[str, AfterValidator(_currency)]
MerchantId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{0,64}$")]
MerchantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
KeyId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]

# A call begins within this time of SENDING and is given up after timeout_s; its outcome is committed in the rest.
_SEND_WITHIN_MS = 2_000
_SENDING_MARGIN_MS = 5_000
# What a provider needs to take a call in that was given up here, and what the clocks of two machines may be apart.
_ABSENCE_MARGIN_S = 15.0


class Acknowledgement(msgspec.Struct, frozen=True):
    """The content of a 200 to a notification."""

    body: str = ""
    content_type: str = "text/plain"


class SecretSettings(Section):
    """One secret: ``value`` (from the environment) or the ``file`` that holds it."""

    value: SecretStr | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.value is None) == (self.file is None):
            raise ValueError("needs either value or file")
        return self

    def read(self) -> str:
        """The secret; ConfigurationError names a file that cannot be read or is empty."""
        if self.value is not None:
            return self.value.get_secret_value()
        assert self.file is not None
        try:
            secret = self.file.read_text().strip()
        except OSError as error:
            raise ConfigurationError(f"secret file {self.file}: {error.strerror}") from None
        if not secret:
            raise ConfigurationError(f"secret file {self.file} is empty")
        return secret


class ProviderAccountSettings(Section):
    """An account at a provider. ``notification_keys``: by key id, the old and the new one during a rotation.

    ``merchant_id`` is the provider's own name for the account: what it repeats must be that one. Empty: not compared.
    """

    base_url: Url
    merchant_id: MerchantId = ""
    api_key: SecretSettings
    notification_keys: Annotated[dict[KeyId, SecretSettings], Field(min_length=1, max_length=2)]

    def all_secrets(self) -> list[SecretSettings]:
        """Every secret of the account: what no table and no log may hold."""
        return [self.api_key, *self.notification_keys.values()]


class AmountSettings(Section):
    """The least and the most that a channel carries at once, in minor units of one currency."""

    min_minor: Annotated[int, Field(ge=1, le=AMOUNT_MINOR_MAX)] = 1
    max_minor: Annotated[int, Field(ge=1, le=AMOUNT_MINOR_MAX)] = AMOUNT_MINOR_MAX

    @model_validator(mode="after")
    def _has_an_amount(self) -> Self:
        if self.min_minor > self.max_minor:
            raise ValueError(f"min_minor is more than max_minor, {self.max_minor}")
        return self


class ChannelSettings(ProviderAccountSettings):
    """One channel: which provider, what for, with what bounds. ``shadow``: the account that shadow traffic uses.

    Each kind of channel has its own class of these, beside its implementation, which narrows ``kind``.
    """

    kind: str
    operations: frozenset[ChannelOrderKind] = frozenset(ChannelOrderKind)
    currencies: frozenset[CurrencyCode] = frozenset()  # those it carries; empty: all
    # Of a charge, an authorisation or a payout; left out: any.
    amounts: Annotated[dict[CurrencyCode, AmountSettings], Field(default_factory=dict)]
    captures_max: Annotated[int, Field(ge=1, le=100)] = 1  # how often one authorisation can be captured
    amount_may_differ: bool = False  # a charge may bring another amount than was asked for
    shadow: ProviderAccountSettings | None = None
    timeout_s: Seconds = 5.0
    connect_timeout_s: Seconds = 2.0
    max_in_flight: Count = 128  # calls to the provider under way, per process
    max_queue: Count = 4096  # orders waiting for one, and as many queries; beyond it RESOURCE_EXHAUSTED
    limits: LimitsSettings = LimitsSettings()
    merchant_limits: MerchantLimitsSettings = MerchantLimitsSettings()  # of every merchant that is not named below
    merchants: Annotated[dict[MerchantName, MerchantLimitsSettings], Field(max_length=1000, default_factory=dict)]
    query_ladder_s: Annotated[tuple[Seconds, ...], Field(min_length=1, max_length=50)] = (
        15, 30, 60, 300, 900, 3600, 14400, 43200, 86400,
    )  # fmt: skip
    # When the provider's "not found" means that it never had the order; left out: never.
    not_found_certain_after_s: Seconds | None = None
    # How long after an order has failed as not found the provider is asked again: it may have done it after all.
    not_found_again_after_s: Annotated[tuple[Seconds, ...], Field(max_length=50)] = (3600, 86400)
    resend_delay_s: Seconds = 1.0  # after a call that cannot have left this machine; doubles up to 64 times it
    resend_give_up_after_s: Seconds = 600.0
    notification_tolerance_s: Seconds = 300.0  # how far a notification's timestamp may be off
    confirm_notifications: bool = False  # a notification settles nothing: it has the provider asked at once

    @model_validator(mode="after")
    def _absence_is_certain_only_when_no_call_is_under_way(self) -> Self:
        after_s = self.not_found_certain_after_s
        if after_s is not None and after_s < self.timeout_s + _ABSENCE_MARGIN_S:
            raise ValueError(f"not_found_certain_after_s must exceed timeout_s by {_ABSENCE_MARGIN_S:.0f} seconds")
        return self

    @model_validator(mode="after")
    def _a_merchant_waits_no_longer_than_the_channel(self) -> Self:
        for merchant in (self.merchant_limits, *self.merchants.values()):
            if merchant.timeout_s is not None and merchant.timeout_s > self.timeout_s:
                raise ValueError("a merchant's timeout_s must not exceed the channel's")
        return self

    def scope(self) -> ScopePolicy:
        """What the calls to the channel are bounded by."""
        return self.limits.scope(self.max_in_flight, self.max_queue)

    def merchant_scope(self) -> Callable[[str], ScopePolicy]:
        """What the calls for one merchant, by its name, are bounded by."""
        room = self.max_in_flight, self.max_queue
        default = self.merchant_limits.scope_in(*room)
        named = {name: limits.scope_in(*room) for name, limits in self.merchants.items()}
        return lambda merchant: named.get(merchant, default)

    def merchant_timeout_s(self, merchant: str) -> float:
        """How long one call for a merchant may take."""
        limits = self.merchants.get(merchant, self.merchant_limits)
        return self.timeout_s if limits.timeout_s is None else limits.timeout_s

    def acknowledgement_of(self) -> Acknowledgement:
        """What the provider is answered with once its notification is stored."""
        return Acknowledgement()

    def policy(self) -> ChannelPolicy:
        """What decisions on results need."""
        certain_s = self.not_found_certain_after_s
        return ChannelPolicy(
            send_within_ms=_SEND_WITHIN_MS,
            sending_ms=int(self.timeout_s * 1000) + _SENDING_MARGIN_MS,
            query_ladder_ms=tuple(int(rung_s * 1000) for rung_s in self.query_ladder_s),
            not_found_certain_after_ms=None if certain_s is None else int(certain_s * 1000),
            not_found_again_after_ms=tuple(int(after_s * 1000) for after_s in self.not_found_again_after_s),
            resend_delay_ms=int(self.resend_delay_s * 1000),
            resend_give_up_after_ms=int(self.resend_give_up_after_s * 1000),
            amount_may_differ=self.amount_may_differ,
            confirm_notifications=self.confirm_notifications,
        )

    def bounds(self) -> dict[str, Bounds]:
        """The least and the most of one order, by currency."""
        return {currency: Bounds(amount.min_minor, amount.max_minor) for currency, amount in self.amounts.items()}
