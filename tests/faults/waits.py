"""The settings of a fault run: the same code with short waits, so that what asks again does so within the run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from meshctl.layout import CHANNELS

# Every process of the stack, and the checker, take these over their settings file.
_CHANNEL = {
    "TIMEOUT_S": "2",
    "QUERY_LADDER_S": "[1, 2, 4, 4, 4, 4, 4, 15, 30, 60]",
    "NOT_FOUND_CERTAIN_AFTER_S": "18",  # the least beside this TIMEOUT_S
}
_SETTINGS = {
    "PAYMESH_TRADE_CORE__ASK_AFTER_S": "3",
    "PAYMESH_TRADE_CORE__ASK_AFTER_MAX_S": "10",
    "PAYMESH_PAY_CORE__CHANNEL_RESULT_DUE_S": "5",
    "PAYMESH_PAY_CORE__CHANNEL_RESULT_DUE_MAX_S": "15",
    "PAYMESH_RECON__WINDOW_S": "8",
    "PAYMESH_RECON__ASK__DELAY_MAX_S": "10",
    "PAYMESH_SANDBOX__LATE_MS": "3000",
    "PAYMESH_SANDBOX__HANG_MS": "5000",
    **{
        f"PAYMESH_CHANNEL_GATEWAY__CHANNELS__{channel.upper()}__{key}": value
        for channel in CHANNELS
        for key, value in _CHANNEL.items()
    },
    **{
        f"PAYMESH_{service}__RELAY__{key}": value
        for service in ("TRADE_CORE", "PAY_CORE", "CHANNEL_GATEWAY", "RECON")
        for key, value in {"SWEEP_INTERVAL_S": "2", "SWEEP_AGE_S": "5", "RETRY_DELAY_MAX_S": "3"}.items()
    },
}


@contextlib.contextmanager
def short_waits(more: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Sets them, and ``more``, in the environment for the time of the block."""
    settings = {**_SETTINGS, **more}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
