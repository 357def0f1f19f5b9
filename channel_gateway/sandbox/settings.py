"""What the sandbox provider is told at start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import ConfigDict, Field, PlainSerializer, PlainValidator, SecretStr, field_validator

from channel_gateway.sandbox.behaviour import BEHAVIOURS, Operation
from channel_gateway.sandbox.faults import FaultRule, Window
from channel_gateway.sandbox.latency import LATENCY_MS_MAX, Latency
from channel_gateway.sandbox.statement import Difference, Fee
from channel_gateway.sandbox.statement_formats import StatementFormat
from paykit.settings import Count, Seconds, Section

T = TypeVar("T")


def _scripted(type_: type[T]) -> PlainValidator:
    """Takes a table of the file as the struct that the provider's HTTP side takes as JSON."""

    def read(value: Any) -> T:
        try:
            return value if isinstance(value, type_) else msgspec.convert(value, type_)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None

    return PlainValidator(read)


_PLAIN = PlainSerializer(msgspec.to_builtins)
ScriptedRule = Annotated[FaultRule, _scripted(FaultRule), _PLAIN]
ScriptedWindow = Annotated[Window, _scripted(Window), _PLAIN]
ScriptedLatency = Annotated[Latency, _scripted(Latency), _PLAIN]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]


class SandboxFeeSettings(Section):
    """What the provider keeps of a movement: a share, rounded half up to the minor unit, and a fixed part."""

    basis_points: int = Field(default=0, ge=0, le=10_000)
    fixed_minor: int = Field(default=0, ge=0)


class SandboxAccountSettings(Section):
    """One account at the provider: an API key, and where and how its notifications go."""

    livemode: bool = True  # False for the account that shadow traffic uses
    api_key: SecretStr
    notification_url: str = ""  # empty: none are sent
    notification_key_id: str = Field(default="k1", pattern=r"^[A-Za-z0-9_.-]{1,32}$")
    notification_key: SecretStr
    customer_confirms: bool = False  # a wallet: charges stay pending until the customer confirms
    merchant: str = Field(default="", pattern=r"^[A-Za-z0-9_.:-]{0,64}$")  # its id here; empty: the account's name
    currency: str = Field(default="EUR", pattern=r"^[A-Z]{3}$")  # a statement has a section in it, though nothing moved
    # By operation; "" for those without their own. Where there is none, the provider's latency_ms and jitter.
    latency: dict[Literal[""] | Operation, ScriptedLatency] = Field(default_factory=dict)
    fees: dict[Literal["charge", "capture", "refund", "payout"], SandboxFeeSettings] = Field(default_factory=dict)

    def fee_table(self) -> dict[str, Fee]:
        """What is kept, by kind of order."""
        return {
            kind: Fee(basis_points=fee.basis_points, fixed_minor=fee.fixed_minor) for kind, fee in self.fees.items()
        }


class SandboxSettings(Section):
    """The provider as a whole. Fault rates are per behaviour name, and fall on tokens that begin with ``tok_ok``."""

    host: str = "127.0.0.1"
    port: int = Field(default=8090, ge=0, le=65535)  # 0: any free one, printed at start
    book_path: Path = Path("sandbox_book.sqlite")
    accounts: dict[str, SandboxAccountSettings] = Field(default_factory=dict)
    admin_key: SecretStr
    seed: int = 0
    latency_ms: int = Field(default=0, ge=0, le=60_000)
    latency_jitter_ms: int = Field(default=0, ge=0, le=60_000)
    settle_ms: int = Field(default=50, ge=0)  # how long a pending order stays pending
    late_ms: int = Field(default=3_000, ge=0)  # how long a late notification, or a late customer, takes beyond that
    hold_ms: int = Field(default=604_800_000, ge=0)  # how long an authorisation can be captured
    abandon_ms: int = Field(default=900_000, ge=0)  # how long an order waits for a customer who never comes
    hang_ms: int = Field(default=60_000, ge=0)  # how long a reply that never comes keeps its connection
    notification_timeout_s: Seconds = 5.0
    notification_attempts_max: Count = 20
    notification_backoff_ms: Count = 200  # doubles with each attempt, up to a minute
    notifications_in_flight_max: Count = 32
    later_ms: int = Field(default=3_000, ge=0)  # how long an order takes into the book that gets there later
    very_late_ms: int = Field(default=3_600_000, ge=0)  # … very late: after every time that was promised
    fault_rates: dict[str, float] = Field(default_factory=dict)
    fault_rules: list[ScriptedRule] = Field(default_factory=list)
    windows: list[ScriptedWindow] = Field(default_factory=list)  # of maintenance, or of storms
    # How often statements differ from the book: of lines by order, of files by day.
    statement_rates: dict[Difference, Rate] = Field(default_factory=dict)
    statement_folder: Path | None = None  # a file for each account and day, once it is over; none where left out
    statement_formats: tuple[StatementFormat, ...] = ("csv",)  # of those files
    statement_ready_after_s: Seconds = 300.0  # how long after midnight (UTC) a day's files are written

    def latency(self) -> Latency:
        """The latency of accounts that have none of their own."""
        low_ms = float(self.latency_ms)
        if not self.latency_jitter_ms:
            return Latency(low_ms=low_ms)
        return Latency(kind="uniform", low_ms=low_ms, high_ms=min(low_ms + self.latency_jitter_ms, LATENCY_MS_MAX))

    @field_validator("fault_rates")
    @classmethod
    def _known(cls, rates: dict[str, float]) -> dict[str, float]:
        for name, rate in rates.items():
            if name not in BEHAVIOURS:
                raise ValueError(f"unknown behaviour {name!r}")
            if not 0.0 <= rate <= 1.0:
                raise ValueError(f"rate of {name!r} must lie between 0 and 1")
        return rates


class SandboxFile(Section):
    """A settings file, of which the provider reads its own table alone."""

    model_config = ConfigDict(extra="ignore")

    sandbox: SandboxSettings
