"""What people set breakers to: the command, and the watch by which every process keeps to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum

import msgspec
import structlog
from sqlalchemy import select

from channel_gateway.limits.breaker import Forced
from channel_gateway.tables import ChannelOverride
from paykit.errors import FailedPrecondition, FieldViolation, InvalidArgument, MeshError
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Key, key
from paykit.store.store import Store

log = structlog.get_logger(__name__)

OVERRIDES_SLOT = 0
OVERRIDES_MAX = 1000  # in force at once, in a mode
EXPIRY_MAX_MS = 30 * 86_400_000
_POLL_S = 1.0


class OverrideMode(StrEnum):
    """What a breaker is set to."""

    FORCED_OPEN = Forced.OPEN.value
    FORCED_CLOSED = Forced.CLOSED.value
    NONE = "NONE"


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, its fields checked. ``merchant`` is empty for the whole channel."""

    channel: str
    merchant: str
    mode: OverrideMode
    reason: str
    expire_at_ms: int | None

    @property
    def key(self) -> str:
        """What is overridden."""
        return f"{self.channel}/{self.merchant}"


class SetOverride(Command[ChannelOverride]):
    """Sets a breaker, or leaves it to its calls again. One row for each channel, and each merchant on one."""

    result_type = ChannelOverride

    def __init__(self, origin: Origin, wanted: Override) -> None:
        super().__init__(OVERRIDES_SLOT, origin)
        self.wanted = wanted

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(ChannelOverride, self.wanted.key, "override_key")

    def decide(self, work: Work) -> ChannelOverride:
        wanted = self.wanted
        existing = work.get(ChannelOverride, wanted.key, "override_key")
        if wanted.mode is OverrideMode.NONE:
            if existing is None or not is_in_force(existing, work.now_ms):
                raise FailedPrecondition("no override is in force", reason="NOT_OVERRIDDEN", subject=wanted.key)
        elif wanted.expire_at_ms is None or not 0 < wanted.expire_at_ms - work.now_ms <= EXPIRY_MAX_MS:
            raise InvalidArgument([FieldViolation("expire_time", "must be in the future, within 30 days")])
        row = ChannelOverride(
            id=work.new_id("ovr") if existing is None else existing.id,
            slot=self.slot,
            version=1 if existing is None else existing.version,
            biz_id=work.context.biz_id,
            override_key=wanted.key,
            channel=wanted.channel,
            merchant=wanted.merchant,
            mode=wanted.mode.value,
            reason=wanted.reason,
            set_by=work.context.caller,
            set_at_ms=work.now_ms,
            expire_at_ms=wanted.expire_at_ms,
        )
        note = f"{wanted.mode.value}: {wanted.reason}"
        return work.insert(row, note=note) if existing is None else work.update(row, note=note)


def is_in_force(row: ChannelOverride, now_ms: int) -> bool:
    """Whether breakers keep to it."""
    return row.mode != OverrideMode.NONE and row.expire_at_ms is not None and row.expire_at_ms > now_ms


class OverrideWatch:
    """Reads what is in force every second and tells it. While it cannot be read, what was known holds until it expires.

    ``tell(mode, rows)`` gets the rows in force.
    """

    def __init__(self, store: Store, tell: Callable[[str, list[ChannelOverride]], None]) -> None:
        self._store = store
        self._tell = tell
        self._rows: dict[str, list[ChannelOverride]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reads once, then goes on reading."""
        for mode in self._store.modes():
            await self.refresh(mode)
        self._task = asyncio.create_task(self._run(), name="channel-overrides")

    async def stop(self) -> None:
        """Reads no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def in_force(self, mode: str) -> Mapping[tuple[str, str], ChannelOverride]:
        """By channel and merchant (empty: the whole channel)."""
        now_ms = self._store.clock.now_ms()
        rows = self._rows.get(mode, [])
        return {(row.channel, row.merchant): row for row in rows if is_in_force(row, now_ms)}

    async def refresh(self, mode: str) -> None:
        """Reads and tells now."""
        table = ChannelOverride.__table__
        statement = select(table).where(table.c.expire_at_ms > self._store.clock.now_ms())
        statement = statement.order_by(table.c.expire_at_ms).limit(2 * OVERRIDES_MAX)
        try:
            self._rows[mode] = await self._store.fetch(
                ChannelOverride, statement, slot=OVERRIDES_SLOT, shadow=mode == "shadow"
            )
        except MeshError as error:
            log.warning("channel_overrides_not_read", mode=mode, reason=error.reason)
        except Exception:  # a breaker must not stay forced because the watch ended
            log.exception("channel_overrides_not_read", mode=mode)
        self._tell(mode, list(self.in_force(mode).values()))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            for mode in self._store.modes():
                await self.refresh(mode)
