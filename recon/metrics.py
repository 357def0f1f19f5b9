"""What recon finds, for Prometheus; refreshed at an interval, by queries that cost as much as there is unmatched."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from paykit import telemetry
from paykit.store.store import Store
from recon import summary

_UNMATCHED = telemetry.gauge("recon_unmatched", "Pairs that wait for one of their sides", ("mode", "kind"))
_AGE = telemetry.gauge("recon_unmatched_age_seconds", "Age of the oldest of them", ("mode", "kind"))
_WAITING = telemetry.gauge("recon_unmatched_minor", "Money in pairs that wait", ("mode", "currency"))
_BREAKS = telemetry.gauge("recon_open_breaks", "Breaks in state OPEN", ("mode", "type", "currency"))
_AT_RISK = telemetry.gauge("recon_at_risk_minor", "Money at risk in open breaks", ("mode", "type", "currency"))
_WATERMARK = telemetry.gauge(
    "recon_watermark_age_seconds", "All that ended longer ago is matched or in a break, and was compared", ("mode",)
)
_REPAIRS = telemetry.gauge(
    "recon_repairs_under_way", "Repairs to be approved, to go out, or to be answered", ("mode", "kind", "state")
)
_REPAIR_AGE = telemetry.gauge("recon_repair_age_seconds", "Age of the oldest of them", ("mode", "kind", "state"))
ALL = (_UNMATCHED, _AGE, _WAITING, _WATERMARK, _BREAKS, _AT_RISK, _REPAIRS, _REPAIR_AGE)

_log = structlog.get_logger(__name__)


class Gauges:
    """Refreshes the gauges every ``interval_s`` seconds."""

    def __init__(self, store: Store, interval_s: float) -> None:
        self._store = store
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins."""
        self._task = asyncio.create_task(self._run(), name="recon-gauges")

    async def stop(self) -> None:
        """Ends; waits for what runs."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def refresh(self) -> None:
        """Reads the counts of every mode and sets the gauges. What is no longer there is dropped, not left standing."""
        now_ms = self._store.clock.now_ms()
        found = [
            (
                mode,
                await summary.unmatched(self._store, mode),
                await summary.open_breaks(self._store, mode),
                await summary.repairs_under_way(self._store, mode),
                await summary.swept_until(self._store, mode),
            )
            for mode in self._store.modes()
        ]
        for gauge in ALL:
            gauge.clear()
        for mode, waiting, breaks, repairs, positions in found:
            for kind, count in waiting.pair_counts.items():
                _UNMATCHED.labels(mode, kind).set(count)
                _AGE.labels(mode, kind).set(max(0, now_ms - waiting.oldest_ms[kind]) / 1000)
            watermark_ms = min([*waiting.oldest_ms.values(), *positions])
            _WATERMARK.labels(mode).set(max(0, now_ms - watermark_ms) / 1000)
            for currency, amount_minor in waiting.minor.items():
                _WAITING.labels(mode, currency).set(amount_minor)
            for group in breaks:
                _BREAKS.labels(mode, group.type, group.currency).set(group.break_count)
                _AT_RISK.labels(mode, group.type, group.currency).set(group.at_risk_minor)
            for under_way in repairs:
                labels = (mode, under_way.kind, under_way.state)
                _REPAIRS.labels(*labels).set(under_way.repair_count)
                _REPAIR_AGE.labels(*labels).set(max(0, now_ms - under_way.oldest_ms) / 1000)

    async def _run(self) -> None:
        while True:
            try:
                await self.refresh()
            except Exception:
                # The gauges keep their last values; the next round tries again.
                _log.warning("recon_gauges_not_refreshed", exc_info=True)
            await asyncio.sleep(self._interval_s)
