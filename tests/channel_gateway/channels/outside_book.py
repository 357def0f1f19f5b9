"""The book of a provider made for tests: orders by reference, what follows what, and how each order goes."""

from __future__ import annotations

import time
from enum import StrEnum

import msgspec

from tests.channel_gateway.channels.rig import Does

SETTLE_S = 0.03
PAID_MORE = 500


class Kind(StrEnum):
    """What is booked."""

    CHARGE = "charge"
    REFUND = "refund"
    PAYOUT = "payout"
    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"


class State(StrEnum):
    """What became of it."""

    DONE = "done"
    DECLINED = "declined"
    PENDING = "pending"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An order as it is asked for. ``original``: the reference, ours or the provider's, of what it follows."""

    kind: Kind
    reference: str
    amount_minor: int
    currency: str
    token: str = ""
    original: str = ""
    is_final: bool = True


class Entry(msgspec.Struct, kw_only=True):
    """A booked order."""

    wanted: Wanted
    id: str
    does: Does
    token: str
    code: str = ""  # why it was declined
    moved_minor: int
    settles_at_s: float
    first_state: State

    def state(self, now_s: float) -> State:
        if self.code:
            return State.DECLINED
        return State.DONE if now_s >= self.settles_at_s else State.PENDING


class Conflict(Exception):
    """The reference was used for something else."""


def token_of(does: Does, **following: Does | None) -> str:
    """A token that says how its order goes, and those that follow it: ``SUCCEED.refund:CARD_EXPIRED``."""
    return ".".join([does, *(f"{kind}:{done}" for kind, done in following.items() if done is not None)])


def does_of(token: str, kind: Kind) -> Does | None:
    """What a token says of its order, or of those of ``kind`` that follow; None where it is no token."""
    first, *rest = token.split(".")
    if kind in (Kind.REFUND, Kind.CAPTURE, Kind.VOID):
        found = [part.partition(":")[2] for part in rest if part.startswith(f"{kind}:")]
        return Does(found[0]) if found else Does.SUCCEED
    return Does(first) if first in set(Does) else None


class OutsideBook:
    """What one account has done."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def find(self, reference: str) -> Entry | None:
        """By our reference or the provider's."""
        named = (entry for entry in self.entries.values() if entry.id == reference)
        return self.entries.get(reference) or next(named, None)

    def place(self, wanted: Wanted) -> tuple[Entry, bool]:
        """(the order, whether it is new), booked unless it hangs before that; Conflict."""
        known = self.entries.get(wanted.reference)
        if known is not None:
            if known.wanted != wanted:
                raise Conflict
            return known, False
        original = self.find(wanted.original) if wanted.original else None
        token = wanted.token or (original.token if original is not None else "")
        code = self._refusal(wanted, original)
        does = does_of(token, wanted.kind)
        if does is None or does is Does.DECLINE:
            code = code or "card_declined"
        elif does in (Does.CARD_EXPIRED, Does.AUTH_EXPIRED):
            code = code or does.lower()
        waits = does in (Does.NOTIFY, Does.NOTIFY_TWICE, Does.NOTIFY_WRONG_AMOUNT) and not code
        more = PAID_MORE if does is Does.PAY_MORE and wanted.kind is Kind.CHARGE else 0
        entry = Entry(
            wanted=wanted,
            id=f"{wanted.kind[:3].upper()}{len(self.entries):06d}{wanted.reference[-6:]}",
            does=Does.SUCCEED if code or does is None else does,
            token=token,
            code=code,
            moved_minor=wanted.amount_minor + more,
            settles_at_s=time.time() + (SETTLE_S if waits else 0),
            first_state=State.DECLINED if code else State.PENDING if waits else State.DONE,
        )
        if entry.does is not Does.HANG:
            self.entries[wanted.reference] = entry
        return entry, True

    def _refusal(self, wanted: Wanted, original: Entry | None) -> str:
        if wanted.kind in (Kind.CHARGE, Kind.PAYOUT, Kind.AUTHORIZE):
            return ""
        if original is None or original.state(time.time()) is not State.DONE:
            return "original_not_found"
        kin = {original.wanted.reference, original.id}
        followers = [entry.wanted for entry in self.entries.values() if entry.wanted.original in kin and not entry.code]
        used_minor = sum(follower.amount_minor for follower in followers if follower.kind is wanted.kind)
        if wanted.kind is Kind.REFUND:
            return "refund_exceeds_charge" if used_minor + wanted.amount_minor > original.moved_minor else ""
        is_closed = any(f.kind is Kind.VOID or (f.kind is Kind.CAPTURE and f.is_final) for f in followers)
        if wanted.kind is Kind.CAPTURE:
            if is_closed:
                return "auth_not_open"
            return "capture_exceeds_auth" if used_minor + wanted.amount_minor > original.moved_minor else ""
        return ""
