"""ReportService: field checks and translation."""

from __future__ import annotations

from datetime import date
from typing import Any

from paykit.context import current
from paykit.money import is_currency
from paykit.rpc.checks import Fields
from paykit.store.store import Store
from paymesh.recon.v1 import report_service_pb2, report_service_pb2_grpc
from recon.reports import counting
from recon.reports.queries import Wanted

DAYS_MAX = 92
_NAME_MAX_CHARS = 64


class ReportService(report_service_pb2_grpc.ReportServiceServicer):
    """Counts."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def GetDailyReport(
        self, request: report_service_pb2.GetDailyReportRequest, servicer: Any
    ) -> report_service_pb2.GetDailyReportResponse:
        fields = Fields()
        first = _day(fields, "from_date", request.from_date)
        last = _day(fields, "to_date", request.to_date or request.from_date)
        if first is not None and last is not None and not 0 <= (last - first).days <= DAYS_MAX:
            fields.fail("to_date", f"must be from_date or at most {DAYS_MAX} days later")
        fields.text("channel", request.channel, _NAME_MAX_CHARS)
        fields.text("merchant", request.merchant, _NAME_MAX_CHARS)
        for field in ("channel", "merchant"):
            if not getattr(request, field).isascii():
                fields.fail(field, "must be ASCII")
        if request.currency_code and not is_currency(request.currency_code):
            fields.fail("currency_code", "not an active ISO 4217 currency")
        fields.raise_if_any()
        assert first is not None
        assert last is not None
        wanted = Wanted(
            from_date=first.isoformat(),
            to_date=last.isoformat(),
            channel=request.channel,
            currency=request.currency_code,
            merchant=request.merchant,
        )
        return await counting.count(self._store, wanted, shadow=current().shadow)


def _day(fields: Fields, field: str, value: str) -> date | None:
    try:
        day = date.fromisoformat(value)
    except ValueError:
        day = None
    if day is None or day.isoformat() != value or day.year < 2000:
        fields.fail(field, 'must be a day as "2026-11-29"')
        return None
    return day
