"""A report as one page of HTML that needs nothing from outside: plots, then every figure in tables.

The page forbids itself scripts and whatever else it does not hold: its policy names the digest of its own style.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from paykit.money import EXPONENT, format_minor, is_currency
from paymesh.recon.v1 import report_service_pb2
from recon.reports import plots
from recon.reports.figures import AGE_LABELS, Figure, figures, of_section
from recon.reports.plots import Series

_CURRENCIES_DRAWN = 4
_SETTLEMENTS = (
    ("AGREED", "agree", "agreed"),
    ("BROKEN", "differ", "broken"),
    ("OPEN", "not on a statement yet", "open"),
    ("NOT_EXPECTED", "on no statement, as it should be", "unexpected"),
)

_STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #5b6570; --rule: #d9dee4; --panel: #f6f8fa;
  --agreed: #2f7d5b; --broken: #c2410c; --open: #8aa4c2; --unexpected: #c9ced6; --plain: #3567a8; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 32px 24px; max-width: 1120px; background: #fff; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { margin: 0; font-size: 26px; } h2 { margin: 40px 0 8px; font-size: 18px; } p { margin: 4px 0 12px; }
.soft, .legend, caption { color: var(--soft); font-size: 13px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; padding: 0; }
.tiles { margin: 24px 0; }
.tiles li { list-style: none; padding: 12px 16px; background: var(--panel); border-radius: 8px; }
.tiles b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(460px, 1fr)); gap: 24px; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: 4px; }
svg { display: block; width: 100%; height: auto; } .legend span { margin-right: 16px; white-space: nowrap; }
.legend svg { display: inline; width: 12px; vertical-align: -1px; }
.grid { stroke: var(--rule); } .tick { fill: var(--soft); font-size: 12px; }
.name { fill: var(--ink); font-size: 14px; }
.agreed { fill: var(--agreed); } .broken { fill: var(--broken); } .open { fill: var(--open); }
.unexpected { fill: var(--unexpected); } .plain { fill: var(--plain); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 13px; }
caption { text-align: left; padding: 4px 0; } th { text-align: left; font-weight: 600; white-space: nowrap; }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--rule); vertical-align: top; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
@media print { body { padding: 0; max-width: none; font-size: 11px; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } .tiles li { border: 1px solid var(--rule); } .scroll { overflow: visible; } }
"""


def as_html(report: report_service_pb2.GetDailyReportResponse, title: str) -> str:
    """The page. ``title`` says of what the report is."""
    found = list(figures(report))
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    made = datetime.fromtimestamp(report.as_of.ToMilliseconds() // 1000, UTC)
    body = "".join([_tiles(found), _plots(found), *_tables(found)])
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="soft">Counted on {made:%Y-%m-%d at %H:%M:%S} UTC.</p>'
        f"{body}</main></body></html>\n"
    )


def _tiles(found: Sequence[Figure]) -> str:
    orders, lines = of_section(found, "ORDERS"), of_section(found, "LINES")
    expected = [one for one in orders if one.difference in ("AGREED", "BROKEN")]
    agreed = sum(one.number for one in expected if one.difference == "AGREED")
    judged = sum(one.number for one in expected)
    tiles = [
        ("channel orders", f"{sum(one.number for one in orders):,}"),
        ("statement lines", f"{sum(one.number for one in lines):,}"),
        ("of orders on statements agree", "none" if not judged else _percent(agreed, judged)),
        ("breaks open now", f"{sum(one.number for one in of_section(found, 'AGEING')):,}"),
    ]
    at_risk = Counter[str]()
    for one in of_section(found, "AGEING"):
        at_risk[one.currency] += one.amount_minor
    tiles += [("at risk in open breaks", money(minor, currency)) for currency, minor in sorted(at_risk.items())]
    fees = Counter[str]()
    for one in lines:
        fees[one.currency] += one.fee_minor - (one.amount_minor if one.item == "FEE" else 0)
    tiles += [("fees on statements", money(minor, currency)) for currency, minor in sorted(fees.items()) if minor]
    items = "".join(f"<li><b>{escape(value)}</b>{escape(name)}</li>" for name, value in tiles)
    return f'<ul class="tiles">{items}</ul>'


def _percent(part: int, whole: int) -> str:
    """Rounded down: all but one of a million is not all."""
    hundredths = part * 10_000 // whole
    return f"{hundredths // 100}.{hundredths % 100:02d} %"


def _plots(found: Sequence[Figure]) -> str:
    orders = of_section(found, "ORDERS")
    drawn = []
    days = sorted({one.date for one in orders})
    if days:
        series = []
        for value, name, css_class in _SETTLEMENTS:
            counts = Counter[str]()
            for one in orders:
                if one.difference == value:
                    counts[one.date] += one.number
            if counts:
                series.append(Series(name, css_class, [counts[day] for day in days]))
        title = "Orders by day, and what statements say of them"
        drawn_bars = plots.stacked_bars(title, _short(days), series, lambda count: f"{count:,} orders")
        drawn.append(_figure(title, drawn_bars, plots.legend(series)))
    drawn += _volumes(orders, days)
    ages = Counter[str]()
    for one in of_section(found, "AGEING"):
        ages[one.item] += one.number
    if ages:
        title = "Open breaks by age"
        rows = {label: ages[label] for label in AGE_LABELS.values()}
        drawn.append(_figure(title, plots.lying_bars(title, rows, "broken", "breaks")))
    types = Counter[str]()
    for one in of_section(found, "BREAKS"):
        types[one.difference] += one.number
    if types:
        title = "Breaks opened in these days, by type"
        rows = {name.lower().replace("_", " "): number for name, number in types.most_common()}
        drawn.append(_figure(title, plots.lying_bars(title, rows, "plain", "breaks")))
    return f'<div class="plots">{"".join(drawn)}</div>' if drawn else "<p>There is nothing in these days.</p>"


def _volumes(orders: Sequence[Figure], days: Sequence[str]) -> list[str]:
    """What orders moved, a plot for each of the currencies with the most orders."""
    counts = Counter[str]()
    for one in orders:
        if one.state == "SUCCEEDED":
            counts[one.currency] += one.number
    drawn = []
    for currency in sorted(currency for currency, _ in counts.most_common(_CURRENCIES_DRAWN)):
        sums = Counter[str]()
        for one in orders:
            if one.state == "SUCCEEDED" and one.currency == currency:
                sums[one.date] += one.amount_minor
        title = f"Moved by day, {currency}"
        series = [Series("moved", "plain", [sums[day] for day in days])]
        drawn.append(_figure(title, _drawn_money(title, days, series, currency)))
    return drawn


def _drawn_money(title: str, days: Sequence[str], series: Sequence[Series], currency: str) -> str:
    unit = 10 ** EXPONENT.get(currency, 0)

    def marked(minor: int) -> str:
        return money(minor, currency).rpartition(" ")[0] if minor % unit else plots.compact(minor // unit)

    return plots.stacked_bars(title, _short(days), series, lambda minor: money(minor, currency), marked)


def _short(days: Sequence[str]) -> list[str]:
    """Days without their year, which the title of the page has."""
    return [day[5:] for day in days]


def _figure(title: str, svg: str, below: str = "") -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}{below}</figure>"


def _tables(found: Sequence[Figure]) -> Iterable[str]:
    place = ("date", "channel", "currency", "merchant")
    yield _table(
        "Channel orders that ended", (*place, "kind", "state", "statements say", "count", "amount"),
        [(*_place(one), one.item, one.state, one.difference, one.number, money(one.amount_minor, one.currency))
         for one in of_section(found, "ORDERS")], 2,
    )  # fmt: skip
    yield _table(
        "Statement lines", (*place, "kind", "difference", "count", "amount", "fees"),
        [(*_place(one), one.item, one.difference, one.number, money(one.amount_minor, one.currency),
          money(one.fee_minor, one.currency)) for one in of_section(found, "LINES")], 3,
    )  # fmt: skip
    yield _table(
        "Breaks that were opened", (*place, "records", "type", "state", "count", "at risk", "more at the provider"),
        [(*_place(one), one.item, one.difference, one.state, one.number, money(one.amount_minor, one.currency),
          money(one.difference_minor, one.currency)) for one in of_section(found, "BREAKS")], 3,
    )  # fmt: skip
    yield _table(
        "Breaks that are open now, by age", ("channel", "currency", "merchant", "age", "count", "at risk"),
        [(one.channel, one.currency, one.merchant, one.item, one.number, money(one.amount_minor, one.currency))
         for one in of_section(found, "AGEING")], 2,
    )  # fmt: skip


def _place(figure: Figure) -> tuple[str, str, str, str]:
    return figure.date, figure.channel, figure.currency, figure.merchant


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str | int]], numbers: int) -> str:
    """The last ``numbers`` columns are figures."""
    if not rows:
        return f'<h2>{escape(title)}</h2><p class="soft">None.</p>'

    number = ' class="number"'

    def cells(tag: str, values: Sequence[str | int]) -> str:
        return "".join(
            f"<{tag}{number if at >= len(values) - numbers else ''}>{_cell(value)}</{tag}>"
            for at, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = f"<thead><tr>{cells('th', headings)}</tr></thead>"
    return f'<h2>{escape(title)}</h2><div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _cell(value: str | int) -> str:
    return escape(value) if isinstance(value, str) else f"{value:,}"


def money(amount_minor: int, currency: str) -> str:
    """``1,234.50 EUR``; minor units where the currency is not known."""
    if not is_currency(currency):
        return f"{amount_minor:,} minor {currency}".rstrip()
    amount, _, code = format_minor(amount_minor, currency).rpartition(" ")
    whole, mark, part = amount.partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    return f"{sign}{int(digits):,}{mark}{part} {code}"
