"""What travels on a bus, who takes it, and which subjects match.

A full subject is ``<mode>.<service>.<event>`` ("live.pay.payment_succeeded"); subscriptions and outbox rows name it
without the mode. Wildcards are those of NATS: ``*`` is exactly one token, ``>`` is one or more at the end.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from paykit import context as business
from paykit.context import BusinessContext

MESSAGE_ID = "Nats-Msg-Id"

_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


class Message(msgspec.Struct, frozen=True):
    """One message. ``subject`` is with mode; ``headers`` carry the business context and the id."""

    id: str
    subject: str
    headers: dict[str, str]
    body: bytes


class Delivery(msgspec.Struct, frozen=True):
    """One attempt at handing a message to a consumer. ``attempt`` counts from 1 and goes on over restarts.

    A message that came due while nobody listened may be told as its first attempt once (NATS 2.9); then the count
    goes on as if it had not.
    """

    message: Message
    attempt: int


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A durable consumer: the messages of one mode, on any of ``subjects`` (without mode, wildcards allowed).

    Subscribers of the same ``consumer`` and mode share the messages. A delivery that fails is repeated after
    ``backoff_s`` doubled each time up to ``backoff_max_s``; after ``max_deliveries`` it goes to ``dead_subject``.
    """

    consumer: str
    mode: str
    subjects: tuple[str, ...]
    max_deliveries: int = 10
    max_in_flight: int = 256  # messages handled at once
    handle_timeout_s: float | None = 60.0  # a handler slower than this has failed; None: it bounds itself
    backoff_s: float = 0.25
    backoff_max_s: float = 30.0

    def matches(self, subject: str) -> bool:
        """Whether a full subject is one of this subscription's."""
        mode, _, rest = subject.partition(".")
        return mode == self.mode and any(matches(pattern, rest) for pattern in self.subjects)

    @property
    def dead_subject(self) -> str:
        """Where messages go that this consumer could not take: ``<mode>.dead.<consumer>``."""
        return f"{self.mode}.dead.{self.consumer}"


@lru_cache(maxsize=8192)
def matches(pattern: str, subject: str) -> bool:
    """Whether ``subject`` (no wildcards) is matched by ``pattern`` (NATS wildcards)."""
    want, have = pattern.split("."), subject.split(".")
    if want[-1] == ">":
        want = want[:-1]
        if len(have) <= len(want):
            return False
        have = have[: len(want)]
    return len(want) == len(have) and all(w in ("*", h) for w, h in zip(want, have, strict=True))


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject that pattern ``narrow`` matches is matched by pattern ``wide`` too."""
    want, have = wide.split("."), narrow.split(".")
    if want[-1] == ">":
        want = want[:-1]
        if len(have) <= len(want):
            return False
        have = have[: len(want)]
    elif have[-1] == ">":
        return False
    return len(want) == len(have) and all(w == h or (w == "*" and h != ">") for w, h in zip(want, have, strict=True))


def filters(subjects: tuple[str, ...]) -> tuple[str, ...]:
    """The fewest patterns that together match all of ``subjects`` and little else.

    Patterns under another are dropped, and siblings share one: ``pay.a`` and ``pay.b`` give ``pay.*``.
    """
    kept = [s for s in dict.fromkeys(subjects) if not any(o != s and covers(o, s) for o in subjects)]
    siblings: dict[str, list[str]] = {}
    for subject in kept:
        parent, dot, _ = subject.rpartition(".")
        siblings.setdefault(parent + dot or subject, []).append(subject)
    return tuple(sorted(group[0] if len(group) == 1 else f"{parent}*" for parent, group in siblings.items()))


def name_of(*parts: str) -> str:
    """A name that a durable consumer may have, made of ``parts``: letters, digits, ``_`` and ``-``."""
    words = [part.replace("*", "any").replace(">", "all").replace(".", "-") for part in parts]
    return "--".join(_NOT_A_NAME.sub("_", word) for word in words)


def to_headers(context: BusinessContext, message_id: str) -> dict[str, str]:
    """The headers of a message: the context and the id by which receivers and the bus know it again."""
    headers = dict(business.to_metadata(context))
    headers[MESSAGE_ID] = message_id
    return headers


def from_headers(headers: dict[str, str], *, caller: str) -> BusinessContext | None:
    """The context that headers carry, or None where they carry none."""
    return business.from_metadata(headers, caller=caller)
