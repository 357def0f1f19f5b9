"""A report's figures are those of the rows, whichever way they are asked for and shown."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paykit.clock import ManualClock
from paykit.context import mint, use
from paykit.errors import FailedPrecondition, InvalidArgument
from paykit.store.store import Store
from paymesh.recon.v1 import report_service_pb2
from recon.reports import counting, plots
from recon.reports.api import ReportService
from recon.reports.csv_text import as_csv
from recon.reports.figures import AGE_LABELS, SECTIONS, Figure, figures, of_section
from recon.reports.html import as_html, money
from recon.reports.queries import Wanted, day_of
from recon.tables import Break, RecordedOrder, StatementLine
from tests.conftest import MakeShards
from tests.recon.reports.support import DAY_MS, DAYS, FIRST_MS, HOSTILE, plant, rows
from tests.recon.support import opened

NOW_MS = FIRST_MS + 4 * DAY_MS
Rows = tuple[list[RecordedOrder], list[StatementLine], list[Break]]


@pytest.fixture
async def store(make_shards: MakeShards) -> AsyncIterator[Store]:
    async with opened(make_shards(2), ManualClock(NOW_MS)) as store:
        yield store


def expected(found: Rows, wanted: Wanted) -> Counter[tuple[object, ...]]:
    """What is to be reported, counted row by row: everything but the numbers -> sums."""
    orders, lines, breaks = found
    by_id = {one.id: one for one in orders}
    sums: Counter[tuple[object, ...]] = Counter()

    def is_wanted(day: str | None, channel: str, currency: str, merchant: str) -> bool:
        names = ((channel, wanted.channel), (currency, wanted.currency), (merchant, wanted.merchant))
        is_named = all(not name or name == value for value, name in names)
        return is_named and (day is None or wanted.from_date <= day <= wanted.to_date)

    def take(key: tuple[str, ...], **numbers: int) -> None:
        for name, number in numbers.items():
            sums[(*key, name)] += number

    for one in orders:
        place = (one.business_date, one.channel, one.currency, one.merchant)
        if is_wanted(*place):
            key = ("ORDERS", *place, one.kind, one.state, one.settlement)
            take(key, number=1, amount_minor=one.amount_minor)
    for line in lines:
        owner = by_id.get(line.match_ref)
        place = (line.business_date, line.channel, line.currency, owner.merchant if owner else "")
        if is_wanted(*place) and line.state == "CURRENT":
            key = ("LINES", *place, line.kind, "", line.difference)
            take(key, number=1, amount_minor=line.amount_minor, fee_minor=line.fee_minor)
    for broken in breaks:
        owner = by_id.get(broken.channel_order_id)
        channel, merchant = broken.channel or (owner.channel if owner else ""), owner.merchant if owner else ""
        place = (day_of(broken.opened_at_ms), channel, broken.currency, merchant)
        if is_wanted(*place):
            key = ("BREAKS", *place, broken.kind, broken.state, broken.type)
            take(key, number=1, amount_minor=broken.amount_minor, difference_minor=broken.difference_minor)
        if broken.state == "OPEN" and is_wanted(None, *place[1:]):
            age_days = (NOW_MS - broken.opened_at_ms) / DAY_MS
            label = list(AGE_LABELS.values())[sum(age_days >= days for days in (1, 3, 7, 30))]
            take(("AGEING", "", *place[1:], label, "OPEN", ""), number=1, amount_minor=broken.amount_minor)
    return sums


def summed(found: Iterable[Figure]) -> Counter[tuple[object, ...]]:
    """A report in the same way; every figure stands in it once."""
    sums: Counter[tuple[object, ...]] = Counter()
    seen = set()
    for figure in found:
        key = figure[:8]
        assert key not in seen
        seen.add(key)
        for name in ("number", "amount_minor", "fee_minor", "difference_minor"):
            sums[(*key, name)] += getattr(figure, name)
    return sums


def same(left: Counter[tuple[object, ...]], right: Counter[tuple[object, ...]]) -> bool:
    """Whether two are equal, but for what is zero."""
    return {k: v for k, v in left.items() if v} == {k: v for k, v in right.items() if v}


WANTED = [
    Wanted(DAYS[0], DAYS[-1]),
    Wanted(DAYS[1], DAYS[1]),
    Wanted(DAYS[0], DAYS[-1], channel="card"),
    Wanted(DAYS[0], DAYS[-1], currency="JPY", merchant=HOSTILE),
    Wanted("2026-01-01", "2026-01-02"),
]


async def test_every_figure_is_that_of_its_rows(store: Store) -> None:
    found = rows(1, 120)
    await plant(store, [*found[0], *found[1], *found[2]])
    for wanted in WANTED:
        report = await counting.count(store, wanted, shadow=False)
        assert report.as_of.ToMilliseconds() == NOW_MS
        assert same(summed(figures(report)), expected(found, wanted)), wanted
        places = [(row.date, row.channel, row.currency_code, row.merchant) for row in report.rows]
        assert places == sorted(set(places))
    assert {figure.section for figure in figures(await counting.count(store, WANTED[0], shadow=False))} == set(SECTIONS)
    assert not list(figures(await counting.count(store, WANTED[0], shadow=True)))


async def test_csv_and_page_say_what_the_rpc_says(store: Store) -> None:
    found = rows(2, 60)
    await plant(store, [*found[0], *found[1], *found[2]])
    with use(mint(0, NOW_MS)):
        request = report_service_pb2.GetDailyReportRequest(from_date=DAYS[0], to_date=DAYS[-1])
        report = await ReportService(store).GetDailyReport(request, None)
    told = list(figures(report))
    head, *lines = csv.reader(io.StringIO(as_csv(report)))
    assert tuple(head) == Figure._fields
    assert [tuple(line) for line in lines] == [tuple(map(str, figure)) for figure in told]
    page = Page()
    page.feed(as_html(report, f"of {HOSTILE}"))
    assert page.tables[0] == [
        (*one[1:5], one.item, one.state, one.difference, f"{one.number:,}", money(one.amount_minor, one.currency))
        for one in of_section(told, "ORDERS")
    ]
    assert [row[:7] for row in page.tables[1]] == [
        (*one[1:5], one.item, one.difference, f"{one.number:,}") for one in of_section(told, "LINES")
    ]
    assert [row[7:] for row in page.tables[1]] == [
        (money(one.amount_minor, one.currency), money(one.fee_minor, one.currency)) for one in of_section(told, "LINES")
    ]
    assert [row[7] for row in page.tables[2]] == [f"{one.number:,}" for one in of_section(told, "BREAKS")]
    assert [row[4:] for row in page.tables[3]] == [
        (f"{one.number:,}", money(one.amount_minor, one.currency)) for one in of_section(told, "AGEING")
    ]


class Page(HTMLParser):
    """The cells of the tables of a page, and what else stands in it."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[tuple[str, ...]]] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self._row: list[str] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "tbody":
            self.tables.append([])
        elif tag == "td":
            self._row.append("")
            self._in_cell = True

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self._row[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._in_cell = False
        elif tag == "tr" and self._row:
            self.tables[-1].append(tuple(self._row))
            self._row = []


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=20)


@given(NAMES, NAMES, NAMES)
def test_hostile_names_stay_text(channel: str, currency: str, merchant: str) -> None:
    row = report_service_pb2.DailyReportRow(
        date="2026-11-29", channel=channel, currency_code=currency, merchant=merchant
    )
    row.orders.add(kind="CHARGE", state="SUCCEEDED", settlement=report_service_pb2.SETTLEMENT_AGREED, count=1)
    report = report_service_pb2.GetDailyReportResponse(rows=[row])
    page = Page()
    text = as_html(report, f"{channel}, {merchant}")
    page.feed(text)
    assert page.tables[0][0][1:4] == (channel, currency, merchant)
    assert page.tags <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "ul", "li", "b", "div", "figure",
        "figcaption", "svg", "line", "text", "rect", "span", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("href", "src", "style")]
    assert "http" not in re.sub(r"http-equiv", "", text) or "http" in channel + currency + merchant
    (_, line) = csv.reader(io.StringIO(as_csv(report), newline=""))
    for told, name in zip(line[2:5], (channel, currency, merchant), strict=True):
        assert told == (f"'{name}" if name.startswith(("=", "+", "-", "@", "\t")) else name)


@given(st.integers(0, 10**15))
def test_scales_hold_what_they_show(most: int) -> None:
    top, step = plots.scale(most)
    assert top >= most
    assert top % step == 0
    assert 1 <= top // step <= 10
    assert str(step).rstrip("0") in ("1", "2", "5")


async def test_what_is_no_report_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    service = ReportService(store)
    with use(mint(0, NOW_MS)):
        for changes in (
            {"from_date": ""},
            {"to_date": "2026-11-26"},
            {"to_date": "2027-03-01"},
            {"currency_code": "XXX"},
            {"merchant": "é"},
        ):
            request = report_service_pb2.GetDailyReportRequest(**({"from_date": "2026-11-27"} | changes))
            with pytest.raises(InvalidArgument):
                await service.GetDailyReport(request, None)
        found = rows(3, 30)
        await plant(store, found[0])
        request = report_service_pb2.GetDailyReportRequest(from_date=DAYS[0], to_date=DAYS[-1])
        monkeypatch.setattr(counting, "ROWS_MAX", 3)
        with pytest.raises(FailedPrecondition) as caught:
            await service.GetDailyReport(request, None)
        assert caught.value.reason == "REPORT_TOO_LARGE"
