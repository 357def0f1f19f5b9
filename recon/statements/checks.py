"""What a file must be as a whole: its balances and lines add up, its accounts are the declared one, and it is not cut
off. Lines go through one by one; what is kept is a few numbers for each account."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from recon.statements.model import (
    PROBLEMS_MAX,
    Balance,
    BalanceKind,
    Declared,
    Item,
    Line,
    Problem,
    StatementInvalid,
)

_ACCOUNTS_MAX = 1_000  # accounts and currencies of one file


class Told(msgspec.Struct):
    """What a file tells of one account in one currency: its first opening and its last closing balance."""

    account: str
    currency: str
    opening_minor: int | None = None
    closing_minor: int | None = None
    from_date: str = ""
    to_date: str = ""
    line_count: int = 0


class _Segment(msgspec.Struct):
    """One statement of an account, of which a file may have several."""

    opening: Balance | None = None
    closing: Balance | None = None
    sum_minor: int = 0
    line_count: int = 0


class Checker:
    """Goes along with the reading of one file."""

    def __init__(self, declared: Declared) -> None:
        self._declared = declared
        self._told: dict[tuple[str, str], Told] = {}
        self._open: dict[tuple[str, str], _Segment] = {}
        self._problems: list[Problem] = []

    def lines(self, items: Iterable[Item]) -> Iterator[Line]:
        """The lines of a file, as they come; StatementInvalid at its end, or as soon as too much is wrong with it."""
        for item in items:
            if isinstance(item, Problem):
                self._add(item)
            elif self._belongs(item):
                if isinstance(item, Line):
                    self._count(item)
                    yield item
                else:
                    self._balance(item)
        for key in list(self._open):
            self._end(key)
        if self._problems:
            raise StatementInvalid(self._sorted())

    def told(self) -> list[Told]:
        """What it tells of each account, once all lines went through."""
        return list(self._told.values())

    def add(self, problems: Iterable[Problem]) -> None:
        """More that is wrong, found beside the reading; StatementInvalid where there is any."""
        for problem in problems:
            self._add(problem)
        if self._problems:
            raise StatementInvalid(self._sorted())

    def _add(self, problem: Problem) -> None:
        self._problems.append(problem)
        if len(self._problems) >= PROBLEMS_MAX:
            raise StatementInvalid(self._sorted())

    def _sorted(self) -> list[Problem]:
        return sorted(self._problems, key=lambda problem: problem.line_no)

    def _belongs(self, item: Line | Balance) -> bool:
        key = (item.account, item.currency)
        if self._declared.account and item.account != self._declared.account:
            self._add(Problem(item.line_no, "is of another account than the one that was named"))
            return False
        if not item.account:
            self._add(Problem(item.line_no, "names no account, and the import names none either"))
            return False
        if key not in self._told:
            if len(self._told) >= _ACCOUNTS_MAX:
                self._add(Problem(item.line_no, f"the file has more than {_ACCOUNTS_MAX} accounts and currencies"))
                return False
            self._told[key] = Told(item.account, item.currency)
            self._open[key] = _Segment()
        told, day = self._told[key], item.business_date
        told.from_date = min(told.from_date or day, day)
        told.to_date = max(told.to_date, day)
        return True

    def _count(self, line: Line) -> None:
        key = (line.account, line.currency)
        segment = self._open[key]
        segment.sum_minor += line.amount_minor - line.fee_minor
        segment.line_count += 1
        self._told[key].line_count += 1

    def _balance(self, balance: Balance) -> None:
        key = (balance.account, balance.currency)
        segment, told = self._open[key], self._told[key]
        if balance.kind is BalanceKind.CLOSING:
            if segment.closing is not None and segment.closing.amount_minor != balance.amount_minor:
                self._add(Problem(balance.line_no, "is a second closing balance, and another one"))
            segment.closing = balance
            told.closing_minor = balance.amount_minor
            return
        if segment.opening is not None:
            if not segment.line_count and segment.opening.amount_minor == balance.amount_minor:
                return  # told twice, by two names
            before = segment.closing
            self._end(key)
            if before is not None and before.amount_minor != balance.amount_minor:
                self._add(Problem(balance.line_no, "opens with another balance than the one before it closed with"))
            segment = self._open[key] = _Segment()
        segment.opening = balance
        if told.opening_minor is None:
            told.opening_minor = balance.amount_minor

    def _end(self, key: tuple[str, str]) -> None:
        segment = self._open.pop(key)
        opening, closing = segment.opening, segment.closing
        if opening is not None and closing is None:
            self._add(Problem(opening.line_no, "opens a statement that is never closed: the file is cut off"))
        if opening is None or closing is None or self._problems:
            return  # without the lines that could not be read, the sum says nothing
        expected_minor = opening.amount_minor + segment.sum_minor
        if closing.amount_minor != expected_minor:
            what = f"closes with {closing.amount_minor} {closing.currency} (minor units)"
            self._add(Problem(closing.line_no, f"{what}, the opening balance and the lines give {expected_minor}"))
