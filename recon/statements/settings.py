"""How statements are read and matched: what a channel's files look like is declared, not programmed."""

from __future__ import annotations

import codecs
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from paykit.settings import Count, Seconds, Section
from recon.statements.model import BalanceKind, Format, LineKind

ChannelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Char = Annotated[str, StringConstraints(min_length=1, max_length=1)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=64)]

CsvField = Literal[
    "account",
    "line_id",
    "kind",
    "reference",
    "provider_reference",
    "amount",
    "credit",
    "debit",
    "direction",
    "fee",
    "currency",
    "date",
    "reversal",
]
CsvKind = Literal["MOVEMENT", "FEE", "TRANSFER", "OPENING", "CLOSING", "IGNORED"]
KINDS: dict[str, LineKind | BalanceKind | None] = {
    "MOVEMENT": LineKind.MOVEMENT,
    "FEE": LineKind.FEE,
    "TRANSFER": LineKind.TRANSFER,
    "OPENING": BalanceKind.OPENING,
    "CLOSING": BalanceKind.CLOSING,
    "IGNORED": None,
}


class CsvSettings(Section):
    """Text with columns. ``columns`` maps what is read to the heading it stands under; other headings are passed over.

    The amount stands in one signed column, in one unsigned beside a ``direction``, or in two, ``credit`` and ``debit``.
    """

    encoding: str = "utf-8-sig"
    delimiter: Char = ","
    quote: Char = '"'
    lines_before_heading: Annotated[int, Field(ge=0, le=1000)] = 0
    columns: dict[CsvField, Word]
    dates: Annotated[tuple[Word, ...], Field(min_length=1, max_length=10)] = ("%Y-%m-%d",)  # as strptime has them
    amounts: Literal["minor", "decimal"] = "decimal"
    decimal_mark: Char = "."
    group_mark: Annotated[str, StringConstraints(max_length=1)] = ""
    currency: Annotated[str, StringConstraints(pattern=r"^([A-Z]{3})?$")] = ""  # where no column tells it
    credit_words: tuple[Word, ...] = ("CREDIT", "C", "CR", "+")
    debit_words: tuple[Word, ...] = ("DEBIT", "D", "DR", "-")
    reversal_words: tuple[Word, ...] = ("TRUE", "YES", "1", "REVERSAL")
    kinds: dict[Word, CsvKind] = Field(default_factory=dict)  # by what the column ``kind`` says; nothing else may stand
    fee_is_negative: bool = False  # whether a fee stands as what the account loses

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        codecs.lookup(self.encoding)  # LookupError, a plain error of the settings
        named = self.columns.keys()
        ways = ({"amount"}, {"credit", "debit"})
        if sum(way <= named for way in ways) != 1:
            raise ValueError("columns: needs either amount, or credit and debit")
        if "currency" not in named and not self.currency:
            raise ValueError("columns: needs currency, or a currency for all of the file")
        if len(set(self.columns.values())) != len(self.columns):
            raise ValueError("columns: two of them have the same heading")
        if "kind" in named and not self.kinds:
            raise ValueError("kinds: says what the column kind may say")
        return self


class Camt053Settings(Section):
    """ISO 20022 camt.053. Where the two references stand, as paths below a transaction; the first found counts."""

    reference: tuple[Word, ...] = ("Refs/EndToEndId", "Refs/InstrId", "Refs/TxId")
    provider_reference: tuple[Word, ...] = ("Refs/AcctSvcrRef", "Refs/ClrSysRef", "Refs/PmtInfId")
    fee_codes: tuple[Word, ...] = ("CHRG", "FEES", "COMM", "FEE")  # family or sub-family codes of entries that are fees
    transfer_codes: tuple[Word, ...] = ("CAJT", "ZABA", "SWEP")  # and of those that are of no order


class Mt940Settings(Section):
    """SWIFT MT940. ``details``: how the field 86 is divided; references are taken from its parts, else from field 61.

    PLAIN: as it is, a reference is looked for in all of it. QUESTION: parts begin with ``?`` and two digits. SLASH:
    parts are ``/CODE/text``.
    """

    encoding: str = "utf-8"
    details: Literal["PLAIN", "QUESTION", "SLASH"] = "PLAIN"
    reference_parts: tuple[Word, ...] = ("EREF",)
    provider_reference_parts: tuple[Word, ...] = ()
    bank_reference: Literal["ORDER", "LINE"] = "ORDER"  # what field 61 names behind //: the order, or the line itself
    fee_codes: tuple[Word, ...] = ("NCHG", "NCOM", "FCHG")  # transaction type codes of field 61
    transfer_codes: tuple[Word, ...] = ()


class StripeSettings(Section):
    """Stripe balance transactions. ``metadata_key``: under which key of its source our order id stands."""

    metadata_key: Word = "channel_order_id"


class ChannelStatements(Section):
    """The statements of one channel."""

    format: Format | None = None  # where the importer names none
    account: Annotated[str, StringConstraints(max_length=64)] = ""  # where neither file nor importer names one
    csv: CsvSettings | None = None
    camt053: Camt053Settings = Camt053Settings()
    mt940: Mt940Settings = Mt940Settings()
    stripe: StripeSettings = StripeSettings()
    references: Literal["ANY", "ANSWERS"] = "ANY"  # ANSWERS: provider references are those of the channel's answers


class StatementsSettings(Section):
    """The section ``[recon.statements]``."""

    channels: dict[ChannelName, ChannelStatements] = Field(default_factory=dict)
    grace_days: Annotated[int, Field(ge=0, le=60)] = 2  # so long may a line be missing, and no longer late
    bytes_max: Annotated[int, Field(ge=1)] = 4 * 2**30  # of one file
    imports_max: Annotated[int, Field(ge=1, le=64)] = 2  # files under way at once in a process
    spool_path: Path | None = None  # where files lie while they are read; left out: the system's folder for such
    lines_per_page: Annotated[int, Field(ge=1, le=200_000)] = 40_000  # matched at a time on a shard
    lines_per_command: Annotated[int, Field(ge=1, le=2000)] = 500  # of one slot
    commands_at_once: Annotated[int, Field(ge=1, le=128)] = 16  # of one shard, or of all while lines are stored
    lease_s: Seconds = 60.0  # an import that has not moved for so long is another process's to end
    recheck_s: Seconds = 3_600.0  # how often what is missing here is looked for again
    recheck_days: Count = 7  # and for how long

    @cached_property
    def by_reference(self) -> frozenset[str]:
        """Channels whose lines name the provider's orders by the references of its answers."""
        return frozenset(name for name, channel in self.channels.items() if channel.references == "ANSWERS")

    @property
    def timer_interval_s(self) -> float:
        """How far apart looks for statements that are due may be."""
        return min(self.lease_s, self.recheck_s) / 10
