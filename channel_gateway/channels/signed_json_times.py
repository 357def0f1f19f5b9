"""How a provider writes times."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum


class TimeFormat(StrEnum):
    """``1764384543``, ``1764384543123``, ``2025-11-29T02:49:03Z`` (whole seconds) or ``20251129024903``."""

    UNIX_S = "unix_s"
    UNIX_MS = "unix_ms"
    ISO8601 = "iso8601"
    COMPACT = "compact"  # in the provider's own time: see utc_offset_minutes


_UNIX = {TimeFormat.UNIX_S: re.compile(r"[0-9]{1,11}"), TimeFormat.UNIX_MS: re.compile(r"[0-9]{1,14}")}
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})")
_COMPACT = re.compile(r"[0-9]{14}")
_COMPACT_FORM = "%Y%m%d%H%M%S"


def time_text(at_ms: int, form: TimeFormat, utc_offset_minutes: int) -> str:
    """A time as text; ISO 8601 in UTC."""
    if form is TimeFormat.UNIX_S:
        return str(at_ms // 1000)
    if form is TimeFormat.UNIX_MS:
        return str(at_ms)
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    if form is TimeFormat.ISO8601:
        return at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return at.astimezone(_zone(utc_offset_minutes)).strftime(_COMPACT_FORM)


def read_time_s(text: str, form: TimeFormat, utc_offset_minutes: int) -> float | None:
    """Unix seconds; None where ``text`` is no such time."""
    if form in _UNIX:
        if _UNIX[form].fullmatch(text) is None:
            return None
        return int(text) / (1 if form is TimeFormat.UNIX_S else 1000)
    try:
        if form is TimeFormat.ISO8601:
            return datetime.fromisoformat(text).timestamp() if _ISO.fullmatch(text) else None
        if _COMPACT.fullmatch(text) is None:
            return None
        return datetime.strptime(text, _COMPACT_FORM).replace(tzinfo=_zone(utc_offset_minutes)).timestamp()
    except (ValueError, OverflowError):
        return None


def _zone(utc_offset_minutes: int) -> timezone:
    return timezone(timedelta(minutes=utc_offset_minutes))
