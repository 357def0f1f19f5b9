"""What the sandbox provider does with an order: behaviours as data, chosen by token or by a fault rule.

A token names its behaviour by prefix: ``tok_declined_4711`` behaves as ``declined``; the longest name wins. A charge
or authorisation token may also say how its refunds, captures and voids behave: ``tok_ok__refund_timeout_charged``,
``tok_ok__capture_declined__void_expired``. A token that names nothing is declined with ``token_unknown``.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

TOKEN_PREFIX = "tok_"
MARK = "__"

Kind = Literal["charge", "refund", "payout", "authorize", "capture", "void"]
Status = Literal["succeeded", "failed", "pending"]
Reply = Literal["answer", "hang", "drop", "error", "unavailable", "after_notification"]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One notification of an order: sent when it settles, or late; it may lie about the amount or the outcome."""

    late: bool = False
    amount_error_minor: int = 0
    status: Status | None = None  # instead of the true outcome
    copies: int = 1  # deliveries under one notification id


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """How one order goes. ``books=False``: the provider forgets it was asked.

    A pending order settles soon, or when its customer has made up his mind: ``late``, or ``never``. Then the order is
    given up in the end. ``moved_error_minor``: a charge moves that much more, but at least one unit.
    """

    name: str
    books: bool = True
    outcome: Literal["succeeded", "failed"] = "succeeded"
    failure_code: str = ""
    pending_first: bool = False
    customer: Literal["soon", "late", "never"] = "soon"
    moved_error_minor: int = 0
    reply: Reply = "answer"
    notices: tuple[Notice, ...] = ()


CUSTOMER_DECLINED = "customer_declined"
CUSTOMER_TIMEOUT = "customer_timeout"

BEHAVIOURS = {
    behaviour.name: behaviour
    for behaviour in (
        Behaviour(name="ok"),
        Behaviour(name="declined", outcome="failed", failure_code="card_declined"),
        Behaviour(name="insufficient", outcome="failed", failure_code="insufficient_funds"),
        Behaviour(name="expired", outcome="failed", failure_code="card_expired"),
        Behaviour(name="timeout_charged", reply="hang"),
        Behaviour(name="timeout_uncharged", reply="hang", books=False),
        Behaviour(name="drop_charged", reply="drop"),
        Behaviour(name="drop_uncharged", reply="drop", books=False),
        Behaviour(name="error_charged", reply="error"),
        Behaviour(name="error_uncharged", reply="error", books=False),
        Behaviour(name="unavailable", reply="unavailable", books=False),
        Behaviour(name="notify_only", pending_first=True, notices=(Notice(),)),
        Behaviour(
            name="notify_declined",
            outcome="failed",
            failure_code="card_declined",
            pending_first=True,
            notices=(Notice(),),
        ),
        Behaviour(name="notify_twice", pending_first=True, notices=(Notice(copies=2),)),
        Behaviour(name="notify_late", pending_first=True, notices=(Notice(late=True),)),
        Behaviour(name="notify_before_reply", reply="after_notification", notices=(Notice(),)),
        Behaviour(name="notify_never", pending_first=True),
        Behaviour(name="notify_wrong_amount", pending_first=True, notices=(Notice(amount_error_minor=1),)),
        Behaviour(name="notify_contradict", notices=(Notice(status="failed"),)),
        Behaviour(name="auth_expired", outcome="failed", failure_code="auth_expired"),
        Behaviour(name="pays_more", moved_error_minor=500),
        Behaviour(name="pays_less", moved_error_minor=-500),
        Behaviour(name="customer_late", pending_first=True, customer="late", notices=(Notice(),)),
        Behaviour(
            name="customer_never",
            outcome="failed",
            failure_code=CUSTOMER_TIMEOUT,
            pending_first=True,
            customer="never",
            notices=(Notice(),),
        ),
    )
}
TOKEN_UNKNOWN = Behaviour(name="token_unknown", outcome="failed", failure_code="token_unknown")

_BY_LENGTH = sorted(BEHAVIOURS, key=len, reverse=True)


def for_token(token: str) -> Behaviour:
    """The behaviour that the token of a charge, authorisation or payout names."""
    return _named(token.partition(MARK)[0])


def for_following(kind: Kind, token: str) -> Behaviour:
    """The behaviour of refunds, captures or voids of what was made with ``token``."""
    for mark in token.split(MARK)[1:]:
        if mark.startswith(f"{kind}_"):
            return _named(TOKEN_PREFIX + mark.removeprefix(f"{kind}_"))
    return BEHAVIOURS["ok"]


def as_confirmed(behaviour: Behaviour) -> Behaviour:
    """The behaviour with an account whose customers confirm each charge: it is pending until they do, or decline."""
    if behaviour.pending_first or not behaviour.books:
        return behaviour
    declined = behaviour.failure_code == "card_declined"
    return msgspec.structs.replace(
        behaviour,
        pending_first=True,
        notices=behaviour.notices or (Notice(),),
        failure_code=CUSTOMER_DECLINED if declined else behaviour.failure_code,
    )


def _named(token: str) -> Behaviour:
    if token.startswith(TOKEN_PREFIX):
        rest = token[len(TOKEN_PREFIX) :]
        for name in _BY_LENGTH:
            if rest.startswith(name):
                return BEHAVIOURS[name]
    return TOKEN_UNKNOWN


def roll(seed: int, *parts: str) -> float:
    """A number in [0, 1) that depends on the seed and ``parts`` alone: a run repeats in whatever order calls come."""
    digest = hashlib.blake2b("\x00".join((str(seed), *parts)).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / (1 << 48)


class FaultRule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Orders (or queries) that shall behave otherwise than their token says. Empty fields match all.

    ``count``: how often the rule still fires, None for ever. Queries know the behaviours that book nothing.
    """

    behaviour: str
    kind: Literal["", "query"] | Kind = ""
    token_prefix: str = ""
    account: str = ""
    probability: float = 1.0
    count: int | None = None

    def __post_init__(self) -> None:
        if self.behaviour not in BEHAVIOURS:
            raise ValueError(f"unknown behaviour {self.behaviour[:40]!r}")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError("probability must lie between 0 and 1")


class FaultScript:
    """The fault rules in force; the first that matches wins."""

    RULES_MAX = 100

    def __init__(self, rules: list[FaultRule], seed: int) -> None:
        self._seed = seed
        self.rules = rules

    def choose(self, kind: str, account: str, token: str, reference: str) -> Behaviour | None:
        """The behaviour that a rule forces on this call, or None."""
        for index, rule in enumerate(self.rules):
            if (
                (rule.kind == kind or (not rule.kind and kind != "query"))
                and rule.count != 0
                and (not rule.account or rule.account == account)
                and token.startswith(rule.token_prefix)
                and (rule.probability >= 1.0 or roll(self._seed, str(index), reference) < rule.probability)
            ):
                if rule.count is not None:
                    rule.count -= 1
                return BEHAVIOURS[rule.behaviour]
        return None
