"""What the sandbox provider does with an order: behaviours as data, chosen by token or by a fault rule.

A token names its behaviour by prefix: ``tok_declined_4711`` behaves as ``declined``; the longest name wins. A charge
or authorisation token may also say how its refunds, captures and voids behave: ``tok_ok__refund_timeout_charged``,
``tok_ok__capture_declined__void_expired``, and what the first queries about it are answered:
``tok_ok__query_answer_not_found``. A token that names nothing is declined with ``token_unknown``.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

TOKEN_PREFIX = "tok_"
MARK = "__"
_UNKNOWN_CHARACTERS = 10  # of a reference, at its end: what makes it one that nobody has

Kind = Literal["charge", "refund", "payout", "authorize", "capture", "void"]
Operation = Literal["charge", "refund", "payout", "authorize", "capture", "void", "query"]
Status = Literal["succeeded", "failed", "pending"]
Reply = Literal[
    "answer",
    "hang",
    "drop",  # the connection is closed once the request was read
    "drop_unread",  # … before it is: only a fault rule or a window can, a token is read too late
    "error",
    "unavailable",
    "maintenance",  # 503 with Retry-After: by contract nothing was done
    "after_notification",
    "truncated",  # JSON that ends in the middle
    "cut_off",  # a body that ends before the length it was announced with
    "huge",
    "wrong_type",  # the right JSON, said to be HTML
    "redirect",
    "garbage",
]


class Lie(msgspec.Struct, frozen=True, kw_only=True):
    """What the provider says of an order otherwise than it is, in a notification, or in the answer to one call."""

    status: Status | None = None
    amount_error_minor: int = 0
    wrong_currency: bool = False
    wrong_merchant: bool = False
    unknown_order: bool = False  # it names an order that nobody has
    is_absent: bool = False  # to a query: there is no such order


TRUTH = Lie()

# A notification that this provider did not send, by what gives it away; sent once, whatever is answered.
Forgery = Literal[
    "",
    "key",  # signed with a key that nobody has
    "stale",  # a right signature, long ago
    "changed",  # the body is another one than was signed
    "account",  # signed with the key of another account
]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One notification of an order: sent when it settles, or late."""

    late: bool = False
    lie: Lie = TRUTH
    forgery: Forgery = ""
    copies: int = 1  # deliveries under one notification id


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """How one order goes. ``books=False``: the provider forgets it was asked.

    A pending order settles soon, or when its customer has made up his mind: ``late``, or ``never``. Then the order is
    given up in the end. Until it settles the provider says ``said_first`` of it, which need not be true.
    ``appears``: when the order gets into the book; until then a query does not find it. ``very_late`` is after every
    time that the provider has promised. ``moved_error_minor``: a charge moves that much more, but at least one unit.
    ``times``: how often it is booked; each has its own provider reference, and the notices are of each.
    """

    name: str
    books: bool = True
    appears: Literal["now", "later", "very_late"] = "now"
    outcome: Literal["succeeded", "failed"] = "succeeded"
    failure_code: str = ""
    pending_first: bool = False
    said_first: Status = "pending"
    customer: Literal["soon", "late", "never"] = "soon"
    moved_error_minor: int = 0
    times: Literal[1, 2] = 1
    reply: Reply = "answer"
    answer: Lie = TRUTH
    notices: tuple[Notice, ...] = ()

    @property
    def is_false(self) -> bool:
        """Whether the provider says what is not so, signed, or breaks its word."""
        return (
            self.answer != TRUTH
            or self.moved_error_minor != 0
            or self.times > 1
            or self.appears == "very_late"
            or self.said_first != "pending"
            or any(notice.lie not in (TRUTH, _STILL_PENDING) and not notice.forgery for notice in self.notices)
        )


_STILL_PENDING = Lie(status="pending")  # true once, and told too late


def _forged(name: str, forgery: Forgery) -> Behaviour:
    return Behaviour(
        name=name,
        outcome="failed",
        failure_code="card_declined",
        pending_first=True,
        notices=(Notice(lie=Lie(status="succeeded"), forgery=forgery), Notice(late=True)),
    )


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
        # Notifications that lie, or come in another order than things happened.
        Behaviour(name="notify_wrong_amount", pending_first=True, notices=(Notice(lie=Lie(amount_error_minor=1)),)),
        Behaviour(name="notify_wrong_currency", pending_first=True, notices=(Notice(lie=Lie(wrong_currency=True)),)),
        Behaviour(name="notify_wrong_merchant", pending_first=True, notices=(Notice(lie=Lie(wrong_merchant=True)),)),
        Behaviour(
            name="notify_unknown_order", pending_first=True, notices=(Notice(lie=Lie(unknown_order=True)), Notice())
        ),
        Behaviour(name="notify_contradict", notices=(Notice(lie=Lie(status="failed")),)),
        Behaviour(
            name="notify_failed_after_success",
            pending_first=True,
            notices=(Notice(), Notice(late=True, lie=Lie(status="failed"))),
        ),
        Behaviour(
            name="notify_success_after_failed",
            outcome="failed",
            failure_code="card_declined",
            pending_first=True,
            notices=(Notice(), Notice(late=True, lie=Lie(status="succeeded"))),
        ),
        Behaviour(
            name="notify_reordered", pending_first=True, notices=(Notice(), Notice(late=True, lie=_STILL_PENDING))
        ),
        # What is declined is said to have succeeded by somebody who is not the provider.
        _forged("forged_key", "key"),
        _forged("forged_stale", "stale"),
        _forged("forged_changed", "changed"),
        _forged("forged_account", "account"),
        # Answers that lie: to the order itself, or, forced by a rule or a token's ``__query_`` mark, to a query.
        Behaviour(name="answer_wrong_amount", answer=Lie(amount_error_minor=1)),
        Behaviour(name="answer_wrong_currency", answer=Lie(wrong_currency=True)),
        Behaviour(name="answer_wrong_merchant", answer=Lie(wrong_merchant=True)),
        Behaviour(name="answer_not_found", answer=Lie(is_absent=True)),
        Behaviour(name="answer_pending", answer=Lie(status="pending")),
        # Answers that cannot be read; the order is booked.
        Behaviour(name="truncated", reply="truncated"),
        Behaviour(name="cut_off", reply="cut_off"),
        Behaviour(name="huge", reply="huge"),
        Behaviour(name="wrong_type", reply="wrong_type"),
        Behaviour(name="redirect", reply="redirect"),
        Behaviour(name="garbage", reply="garbage"),
        Behaviour(name="reset_unread", reply="drop_unread", books=False),
        Behaviour(name="maintenance", reply="maintenance", books=False),
        # Orders that get into the book after they were given up by whoever made them.
        Behaviour(name="charged_later", reply="hang", appears="later"),
        Behaviour(name="charged_later_notified", reply="hang", appears="later", notices=(Notice(),)),
        Behaviour(name="charged_very_late", reply="hang", appears="very_late", notices=(Notice(),)),
        Behaviour(name="charged_very_late_silent", reply="hang", appears="very_late"),
        # The provider did not mean what it said at first.
        Behaviour(
            name="declined_then_charged",
            failure_code="card_declined",
            pending_first=True,
            said_first="failed",
            customer="late",
            notices=(Notice(),),
        ),
        Behaviour(
            name="charged_then_denied",
            outcome="failed",
            failure_code="reversed",
            pending_first=True,
            said_first="succeeded",
            customer="late",
            notices=(Notice(),),
        ),
        # One idempotency key, and yet two charges.
        Behaviour(name="booked_twice", times=2, notices=(Notice(),)),
        Behaviour(name="booked_twice_silent", times=2),
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


def for_following(kind: Operation, token: str) -> Behaviour:
    """The behaviour of refunds, captures or voids of what was made with ``token``, or of queries about it."""
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


def other_currency(currency: str) -> str:
    """The currency that is named where a wrong one is."""
    return "USD" if currency == "EUR" else "EUR"


def unknown_reference(reference: str) -> str:
    """A reference that nobody has, made of one that somebody has; of a channel order id, on the same slot."""
    digest = hashlib.blake2b(reference.encode(), digest_size=_UNKNOWN_CHARACTERS // 2).hexdigest()
    return reference[: max(1, len(reference) - _UNKNOWN_CHARACTERS)] + digest
