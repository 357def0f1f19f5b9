"""A report as CSV: a line for each figure, amounts in minor units."""

from __future__ import annotations

import csv
import io

from paymesh.recon.v1 import report_service_pb2
from recon.reports.figures import Figure, figures

# A spreadsheet takes what begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_csv(report: report_service_pb2.GetDailyReportResponse) -> str:
    """The heading names the fields of figures.Figure; lines end as RFC 4180 says."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(Figure._fields)
    for figure in figures(report):
        writer.writerow([_harmless(value) if isinstance(value, str) else value for value in figure])
    return out.getvalue()


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
