"""A report as one flat list of figures: what the CSV has, a line each, and what the page draws and adds up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from paymesh.recon.v1 import break_pb2, report_service_pb2, statement_pb2

AGE_LABELS = {
    report_service_pb2.AGE_BUCKET_UNDER_1_DAY: "0–1 d",
    report_service_pb2.AGE_BUCKET_1_TO_3_DAYS: "1–3 d",
    report_service_pb2.AGE_BUCKET_3_TO_7_DAYS: "3–7 d",
    report_service_pb2.AGE_BUCKET_7_TO_30_DAYS: "7–30 d",
    report_service_pb2.AGE_BUCKET_OVER_30_DAYS: "over 30 d",
}
SECTIONS = ("ORDERS", "LINES", "BREAKS", "AGEING")


class Figure(NamedTuple):
    """One number of a report. ``item``, ``state`` and ``difference`` say of what; empty where they do not apply."""

    section: str  # one of SECTIONS
    date: str  # empty in AGEING
    channel: str
    currency: str
    merchant: str
    item: str  # kind of order, line or records; AGEING: the age
    state: str  # of orders and breaks
    difference: str  # ORDERS: what statements say; LINES, BREAKS: what is wrong
    number: int  # how many
    amount_minor: int
    fee_minor: int = 0
    difference_minor: int = 0


def figures(report: report_service_pb2.GetDailyReportResponse) -> Iterator[Figure]:
    """All of a report, in its order."""
    for row in report.rows:
        place = (row.date, row.channel, row.currency_code, row.merchant)
        for order in row.orders:
            said = settlement_name(order.settlement)
            yield Figure("ORDERS", *place, order.kind, order.state, said, order.count, order.amount_minor)
        for line in row.lines:
            kind, wrong = line_kind_name(line.kind), type_name(line.difference)
            yield Figure("LINES", *place, kind, "", wrong, line.count, line.amount_minor, line.fee_minor)
        for broken in row.breaks:
            state = break_pb2.BreakState.Name(broken.state).removeprefix("BREAK_STATE_")
            kind = break_pb2.MatchKind.Name(broken.kind).removeprefix("MATCH_KIND_")
            numbers = (broken.count, broken.amount_minor, 0, broken.difference_minor)
            yield Figure("BREAKS", *place, kind, state, type_name(broken.type), *numbers)
    for ageing in report.ageing:
        for age in ageing.ages:
            place = ("", ageing.channel, ageing.currency_code, ageing.merchant)
            yield Figure("AGEING", *place, AGE_LABELS[age.bucket], "OPEN", "", age.count, age.amount_minor)


def settlement_name(value: report_service_pb2.Settlement.ValueType) -> str:
    """``AGREED``."""
    return report_service_pb2.Settlement.Name(value).removeprefix("SETTLEMENT_")


def line_kind_name(value: statement_pb2.StatementLineKind.ValueType) -> str:
    """``MOVEMENT``."""
    return statement_pb2.StatementLineKind.Name(value).removeprefix("STATEMENT_LINE_KIND_")


def type_name(value: break_pb2.BreakType.ValueType) -> str:
    """``AMOUNT_MISMATCH``; empty for none."""
    return break_pb2.BreakType.Name(value).removeprefix("BREAK_TYPE_") if value else ""


def of_section(found: Iterable[Figure], section: str) -> list[Figure]:
    """Those of one section."""
    return [figure for figure in found if figure.section == section]
