"""Logs: a constant event name and identifiers as keywords, JSON in production, nothing secret in any line.

The business context of the operation stands in every line by itself: a processor reads it, so no code binds it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

from paykit.context import current_or_none

REDACTED = "[redacted]"
MAX_DEPTH = 6

# Parts of a key that name a secret, wherever they stand in it: api_token, X-Signature, cardNumber.
_SECRET_KEY = re.compile(
    r"token|secret|password|passwd|authorization|signature|credential|private_?key|api_?key|card_?(number|holder|no)?$"
    r"|^(pan|cvv|cvc|cvv2|iban|pin)$|card_?number",
    re.IGNORECASE,
)
_CARD = re.compile(r"(?<![0-9A-Za-z])\d(?:[ -]?\d){12,18}(?![0-9A-Za-z])")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_is_configured = False

EventDict = MutableMapping[str, Any]


def configure(*, is_production: bool, level: str = "info", stream: TextIO | None = None) -> None:
    """Sets structlog up, once per process: later calls change nothing. ``stream`` is standard error where left out.

    JSON lines in production, for people otherwise. ``level`` is debug, info, warning or error. What libraries log
    through the standard module goes the same way, from warning on.
    """
    global _is_configured
    if _is_configured:
        return
    _is_configured = True
    stream = stream or sys.stderr
    chain = processors(is_production=is_production)
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *chain],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING))


def processors(*, is_production: bool) -> list[Any]:
    """What every line goes through. Redaction comes after the traceback is text, so that it is redacted too."""
    head: list[Any] = [
        add_business_context,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        redact,
    ]
    if is_production:
        return [*head, structlog.processors.JSONRenderer()]
    return [*head, structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]


def add_business_context(_logger: Any, _name: str, event: EventDict) -> EventDict:
    """Adds biz_id, request_id, caller and shadow of the operation being served; what the line says itself stays."""
    context = current_or_none()
    if context is not None:
        event.setdefault("biz_id", context.biz_id)
        if context.request_id:
            event.setdefault("request_id", context.request_id)
        if context.caller:
            event.setdefault("caller", context.caller)
        if context.shadow:
            event.setdefault("shadow", True)
    return event


def redact(_logger: Any, _name: str, event: EventDict) -> EventDict:
    """Replaces the values of keys that name secrets, and whatever looks like a card number (Luhn) in any text."""
    return {key: _redact(key, value, 0) for key, value in event.items()}


def _redact(key: str, value: Any, depth: int) -> Any:
    if _SECRET_KEY.search(key) and value not in (None, ""):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bool | float | None):
        return value
    if isinstance(value, int):
        # A card number logged as a number. Times in milliseconds have 13 digits and stay.
        return REDACTED if value >= 10**13 and _is_card(str(value)) else value
    if depth >= MAX_DEPTH:
        return "[too deep]"
    if isinstance(value, Mapping):
        return {str(name): _redact(str(name), item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact(key, item, depth + 1) for item in value]
    return redact_text(repr(value))


def redact_text(text: str) -> str:
    """The text with every card number in it replaced: 13 to 19 digits, spaces or dashes between, Luhn valid."""
    return _CARD.sub(lambda match: REDACTED if _is_card(match.group()) else match.group(), text)


def _is_card(text: str) -> bool:
    digits = [int(char) for char in text if char.isdigit()]
    if not 13 <= len(digits) <= 19:
        return False
    total = sum(digits[-1::-2])
    for digit in digits[-2::-2]:
        total += digit * 2 - 9 if digit > 4 else digit * 2
    return total % 10 == 0
