"""What an import reads that decides nothing. Each read is a page, or as long as what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, func, or_, select

from paykit.errors import NotFound
from paykit.ids import slot_in
from paykit.store.queries import Query, among
from paykit.store.store import Store
from recon.matching import BreakState, BreakType, MatchKind
from recon.statements import judging
from recon.statements.commands import file_key_of, slot_of_channel
from recon.statements.judging import Settlement
from recon.statements.model import Line
from recon.tables import Break, RecordedOrder, Statement, StatementBalance, StatementLine

_order = RecordedOrder.__table__.c
_line = StatementLine.__table__.c
_statement = Statement.__table__.c
_balance = StatementBalance.__table__.c
_break = Break.__table__.c

_BY_REFERENCE = Query(
    select(
        _order.id,
        _order.provider_reference,
        _order.channel,
        _order.kind,
        _order.state,
        _order.currency,
        _order.amount_minor,
    ).where(among(RecordedOrder.__table__.c.provider_reference)),
    RecordedOrder.__table__.c.provider_reference,
)


class Candidate(NamedTuple):
    """An order that a provider's reference may name."""

    id: str
    provider_reference: str
    channel: str
    kind: str
    state: str
    currency: str
    amount_minor: int


async def orders_by_reference(store: Store, references: Sequence[str], shadow: bool) -> dict[str, list[Candidate]]:
    """The orders that have one of these references of a provider, wherever they lie."""
    wanted = [reference for reference in references if reference]
    if not wanted:
        return {}
    found: dict[str, list[Candidate]] = {}
    for record in await store.query_everywhere(_BY_REFERENCE, wanted, shadow=shadow):
        candidate = Candidate(*record)
        found.setdefault(candidate.provider_reference, []).append(candidate)
    return found


def best_of(candidates: Sequence[Candidate], channel: str, line: Line | StatementLine) -> str:
    """The order that a line means, of those that have its reference; empty where none is of the channel.

    An authorisation and its capture may have the same one: what moved so much, in that direction, comes first.
    """

    def fits(candidate: Candidate) -> tuple[bool, bool, bool, str]:
        sign = judging.SIGN.get(candidate.kind, 0)
        same = (candidate.currency, sign * candidate.amount_minor) == (line.currency, line.amount_minor)
        return sign != 0 and (line.amount_minor >= 0) == (sign > 0), same, candidate.state == "SUCCEEDED", candidate.id

    return max((fits(one) for one in candidates if one.channel == channel), default=(False, False, False, ""))[-1]


async def known_file(store: Store, channel: str, digest: str, shadow: bool) -> Statement | None:
    """The statement that this very file has become."""
    slot = slot_of_channel(channel)
    return await store.get(Statement, file_key_of(channel, digest), "file_key", slot=slot, shadow=shadow)


async def statement_of(store: Store, statement_id: str, shadow: bool) -> Statement:
    """A statement; NotFound."""
    found = await store.get(Statement, statement_id, slot=slot_in(statement_id), shadow=shadow)
    if found is None:
        raise NotFound(f"there is no statement {statement_id}", metadata={"statement_id": statement_id})
    return found


async def revision_max(store: Store, channel: str, mode: str) -> int:
    """The most corrections that any statement of the channel has."""
    shard = store.map.shard_of(slot_of_channel(channel))
    found = await store.aggregate(
        mode, shard, select(func.max(_statement.revision)).where(_statement.channel == channel)
    )
    return int(found[0][0] or 0)


async def refs_of_shard(
    store: Store, mode: str, shard: str, statement_ids: Sequence[str], after: str, limit: int
) -> list[str]:
    """The next orders that lines of the statements name, and lines that name none, in order."""
    wanted = (
        select(_line.match_ref)
        .where(_line.statement_id.in_(statement_ids), _line.match_ref > after)
        .distinct()
        .order_by(_line.match_ref)
        .limit(limit)
    )
    return [ref for (ref,) in await store.aggregate(mode, shard, wanted)]


async def unsettled_orders(
    store: Store, mode: str, shard: str, channel: str, until: str, after: tuple[str, str], limit: int
) -> list[tuple[str, str]]:
    """The next orders of a channel, of the day ``until`` or before, that no statement has said anything of:
    (business date, id)."""
    day, id_ = after
    wanted = (
        select(_order.business_date, _order.id)
        .where(
            _order.channel == channel,
            _order.settlement == Settlement.OPEN.value,
            _order.business_date <= until,
            or_(_order.business_date > day, and_(_order.business_date == day, _order.id > id_)),
        )
        .order_by(_order.business_date, _order.id)
        .limit(limit)
    )
    return [(day, id_) for day, id_ in await store.aggregate(mode, shard, wanted)]


async def orderless(store: Store, mode: str, shard: str, channel: str, after: str, limit: int) -> list[Break]:
    """The next open breaks of lines of a channel whose orders were not here, or not known."""
    wanted = (
        select(Break.__table__)
        .where(
            _break.state == BreakState.OPEN.value,
            _break.kind == MatchKind.STATEMENT.value,
            _break.type.in_((BreakType.MISSING_HERE.value, BreakType.UNEXPLAINED.value)),
            _break.channel == channel,
            _break.id > after,
        )
        .order_by(_break.id)
        .limit(limit)
    )
    return await store.fetch_shard(Break, wanted, mode, shard)


async def lines_by_id(store: Store, mode: str, shard: str, ids: Sequence[str]) -> list[StatementLine]:
    """The lines of one shard that have these ids."""
    wanted = select(StatementLine.__table__).where(_line.id.in_(ids)).order_by(_line.id)
    return await store.fetch_shard(StatementLine, wanted, mode, shard)


async def line_ids(store: Store, mode: str, shard: str, statement_id: str, limit: int) -> list[str]:
    """Some lines of a statement."""
    wanted = select(_line.id).where(_line.statement_id == statement_id).limit(limit)
    return [id_ for (id_,) in await store.aggregate(mode, shard, wanted)]


async def balances_of(store: Store, statement: Statement, shadow: bool) -> list[StatementBalance]:
    """What a statement tells of its accounts."""
    wanted = (
        select(StatementBalance.__table__)
        .where(_balance.statement_id == statement.id)
        .order_by(_balance.account_key)
        .limit(1_000)
    )
    return await store.fetch(StatementBalance, wanted, slot=statement.slot, shadow=shadow)


async def balance_before(
    store: Store, balance: StatementBalance, states: Sequence[str], shadow: bool
) -> StatementBalance | None:
    """What the statement of the same account before this one tells; it is in one of ``states``."""
    other = StatementBalance.__table__.join(Statement.__table__, _statement.id == _balance.statement_id)
    wanted = (
        select(StatementBalance.__table__)
        .select_from(other)
        .where(
            _balance.account_key == balance.account_key,
            _balance.statement_id != balance.statement_id,
            _statement.state.in_(states),
            or_(
                _balance.from_date < balance.from_date,
                and_(_balance.from_date == balance.from_date, _balance.id < balance.id),
            ),
        )
        .order_by(_balance.to_date.desc(), _balance.id.desc())
        .limit(1)
    )
    found = await store.fetch(StatementBalance, wanted, slot=balance.slot, shadow=shadow)
    return found[0] if found else None


async def totals_of(store: Store, mode: str, statement_id: str) -> list[tuple[Any, ...]]:
    """(kind, currency, difference, state, count, sum, sum of fees) of the lines of a statement, of each shard."""
    wanted = (
        select(
            _line.kind,
            _line.currency,
            _line.difference,
            _line.state,
            func.count(),
            func.sum(_line.amount_minor),
            func.sum(_line.fee_minor),
        )
        .where(_line.statement_id == statement_id)
        .group_by(_line.kind, _line.currency, _line.difference, _line.state)
    )
    return [row for shard in store.shards(mode) for row in await store.aggregate(mode, shard, wanted)]
