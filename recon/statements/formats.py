"""The formats there are: one entry here, one module each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from paykit.errors import FailedPrecondition
from recon.statements import camt053, csv_format, mt940_format, stripe_format
from recon.statements.model import Declared, Format, Item, Reader
from recon.statements.settings import ChannelStatements


def reader_of(format_: Format, settings: ChannelStatements, channel: str) -> Reader:
    """How files of a channel are read; FailedPrecondition STATEMENT_NOT_DECLARED where its settings do not say."""
    if format_ is Format.CSV and settings.csv is None:
        raise FailedPrecondition(
            f"the settings do not say what the CSV files of {channel} look like",
            reason="STATEMENT_NOT_DECLARED",
            subject=channel,
        )

    def read(stream: BinaryIO, declared: Declared) -> Iterator[Item]:
        match format_:
            case Format.CSV:
                assert settings.csv is not None
                return csv_format.read(stream, declared, settings.csv)
            case Format.CAMT053:
                return camt053.read(stream, declared, settings.camt053)
            case Format.MT940:
                return mt940_format.read(stream, declared, settings.mt940)
            case Format.STRIPE:
                return stripe_format.read(stream, declared, settings.stripe)

    return read
