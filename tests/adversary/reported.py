"""What recon's daily report says came in, for comparison with the rows it is made of."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

from paykit.rpc.channels import Channels
from paymesh.recon.v1 import report_service_pb2, report_service_pb2_grpc, statement_pb2
from tests.adversary.agreement import SIGN, Key

REPORT_TIMEOUT_S = 60.0
_MOVEMENT = statement_pb2.STATEMENT_LINE_KIND_MOVEMENT


async def reported(channels: Channels) -> dict[Key, Counter[str]]:
    """Per channel and currency, of the days around now: "orders" that succeeded, and "lines" of statements."""
    today = datetime.now(UTC).date()
    request = report_service_pb2.GetDailyReportRequest(
        from_date=(today - timedelta(days=1)).isoformat(), to_date=(today + timedelta(days=1)).isoformat()
    )
    stub = report_service_pb2_grpc.ReportServiceStub(channels.get("recon"))
    found: dict[Key, Counter[str]] = defaultdict(Counter)
    for row in (await stub.GetDailyReport(request, timeout=REPORT_TIMEOUT_S)).rows:
        sums = found[row.channel, row.currency_code]
        for figure in row.orders:
            if figure.state == "SUCCEEDED":
                sums["orders"] += SIGN.get(figure.kind, 0) * figure.amount_minor
        for line in row.lines:
            if line.kind == _MOVEMENT:
                sums["lines"] += line.amount_minor
    return found
