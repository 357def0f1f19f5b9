"""A small service of one kind of record, to test the store with: purses that hold coins."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.wrappers_pb2 import StringValue
from msgspec.structs import replace
from sqlalchemy import MetaData

from paykit import context as business_context
from paykit.errors import FailedPrecondition, NotFound
from paykit.ids import slot_of
from paykit.store.command import Command, Origin, Rows, Work
from paykit.store.row import Code, Id, Key, Minor, Name, Row, key, mapped

metadata = MetaData()


@mapped(metadata, "purse", unique=["owner_id"])
class Purse(Row, frozen=True, kw_only=True):
    """A purse."""

    owner_id: Name
    state: Code
    coins: Minor


@mapped(metadata, "coin_move", index=[("purse_id",)])
class CoinMove(Row, frozen=True, kw_only=True):
    """A line in a purse's book."""

    purse_id: Id
    coins: Minor


def origin(
    owner: str,
    request_id: str,
    body: str,
    *,
    caller: str = "tester",
    deadline_ms: int | None = None,
    shadow: bool = False,
) -> Origin:
    """The origin of a request."""
    minted = business_context.mint(slot_of(owner), 1_700_000_000_000, shadow=shadow, caller=caller)
    context = replace(minted, deadline_ms=deadline_ms)
    return Origin.rpc(context, "Test", owner, request_id, StringValue(value=body))


class OpenPurse(Command[Purse]):
    """Makes a purse for an owner who has none."""

    result_type = Purse

    def __init__(self, owner: str, coins: int, request_id: str = "open", *, shadow: bool = False) -> None:
        super().__init__(slot_of(owner), origin(owner, request_id, str(coins), shadow=shadow))
        self.owner, self.coins = owner, coins

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Purse, self.owner, "owner_id")

    def decide(self, work: Work) -> Purse:
        if work.get(Purse, self.owner, "owner_id") is not None:
            raise FailedPrecondition(f"{self.owner} has a purse", reason="HAS_PURSE")
        purse = Purse(id=work.new_id("pur"), slot=self.slot, owner_id=self.owner, state="OPEN", coins=self.coins)
        return work.insert(purse)


class MoveCoins(Command[Purse]):
    """Adds coins to a purse, or takes some; never below zero. Says so in an event."""

    result_type = Purse

    def __init__(
        self, owner: str, coins: int, request_id: str, *, caller: str = "tester", deadline_ms: int | None = None
    ) -> None:
        super().__init__(slot_of(owner), origin(owner, request_id, str(coins), caller=caller, deadline_ms=deadline_ms))
        self.owner, self.coins = owner, coins

    def reads(self, rows: Rows) -> Iterable[Key]:
        yield key(Purse, self.owner, "owner_id")
        purse = rows.get(Purse, self.owner, "owner_id")
        if purse is not None:
            yield key(CoinMove, purse.id, "purse_id")

    def decide(self, work: Work) -> Purse:
        purse = work.get(Purse, self.owner, "owner_id")
        if purse is None:
            raise NotFound(f"{self.owner} has no purse")
        # Written before it is looked at, so that a refusal has something to undo.
        work.publish("purse.moved", StringValue(value=str(self.coins)))
        work.insert(CoinMove(id=work.new_id("mov"), slot=self.slot, purse_id=purse.id, coins=self.coins))
        assert work.many(CoinMove, "purse_id", purse.id)
        purse = work.update(replace(purse, coins=purse.coins + self.coins), note=f"{self.coins:+d}")
        if purse.coins < 0:
            raise FailedPrecondition("not enough coins", reason="INSUFFICIENT_FUNDS", subject=purse.id)
        return purse
