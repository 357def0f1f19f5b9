"""Freezes and overdrafts: where the chart allows them, written down with who did it and why."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pay_core import holds, ledger
from pay_core.bookkeeping import FreezeAccount, SetOverdraft, UnfreezeAccount
from pay_core.ledger import AccountKind, AccountRef, Draft
from pay_core.tables import Account
from paykit.errors import FailedPrecondition, MeshError, NotFound
from paykit.store.system import CommandRecord
from tests.pay_core.ledger_desk import ANN, FEES, Decide, Desk, Post, origin, outside_of

SHOP = ledger.owned("shop", AccountKind.MERCHANT, "EUR")
SHOP_FEES = ledger.internal(SHOP.slot, AccountKind.FEES, "EUR")


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.deposit(ANN, 1000)
    made.deposit(SHOP, 1000)
    return made


def account(desk: Desk, ref: AccountRef) -> Account:
    (found,) = [row for row in desk.all(Account) if row.account_key == ref.account_key]
    assert isinstance(found, Account)
    return found


def freeze(desk: Desk, ref: AccountRef, request_id: str = "f1", reason: str = "COURT_ORDER") -> Account:
    return desk.run(FreezeAccount(origin(ref.slot, request_id), account(desk, ref).id, reason))


def overdraft(desk: Desk, ref: AccountRef, minor: int, request_id: str = "o1") -> Account:
    return desk.run(SetOverdraft(origin(ref.slot, request_id), account(desk, ref).id, "AGREED", minor))


def refused(reason: str, act: Any) -> None:
    with pytest.raises(MeshError) as raised:
        act()
    assert raised.value.reason == reason


def changes(desk: Desk) -> list[str]:
    """The notes of the last command's audit row."""
    record = desk.all(CommandRecord)[-1]
    return [change[5] for change in msgspec.json.decode(record.changes)]


def test_freezes_and_says_why_in_the_audit(desk: Desk) -> None:
    assert freeze(desk, ANN).freeze_reason == "COURT_ORDER"
    assert changes(desk) == ["frozen: COURT_ORDER"]
    desk.run(UnfreezeAccount(origin(ANN.slot, "u1"), account(desk, ANN).id, "COURT_SAID_SO"))
    assert changes(desk) == ["COURT_ORDER lifted: COURT_SAID_SO"]
    desk.run(Post(ANN, FEES, 1000))


def test_does_not_put_one_reason_in_the_place_of_another(desk: Desk) -> None:
    freeze(desk, ANN)
    refused("ALREADY_FROZEN", lambda: freeze(desk, ANN, "f2", "FRAUD"))
    assert account(desk, ANN).freeze_reason == "COURT_ORDER"


def test_thaws_only_what_is_frozen(desk: Desk) -> None:
    command = UnfreezeAccount(origin(ANN.slot, "u1"), account(desk, ANN).id, "X")
    refused("NOT_FROZEN", lambda: desk.run(command))


def test_freezes_none_of_the_platforms_accounts(desk: Desk) -> None:
    refused("FREEZE_NOT_ALLOWED", lambda: freeze(desk, outside_of(ANN)))


def test_knows_no_account_that_is_not_there(desk: Desk) -> None:
    known = account(desk, ANN).id
    missing = known[:-1] + ("1" if known.endswith("0") else "0")
    with pytest.raises(NotFound):
        desk.run(FreezeAccount(origin(ANN.slot, "f1"), missing, "X"))


def test_lets_a_merchant_go_as_far_below_zero_as_was_granted(desk: Desk) -> None:
    assert overdraft(desk, SHOP, 500).floor_minor == -500
    desk.run(Post(SHOP, SHOP_FEES, 1500))
    with pytest.raises(FailedPrecondition):
        desk.run(Post(SHOP, SHOP_FEES, 1))
    assert account(desk, SHOP).balance_minor == -500


def test_grants_users_and_the_platform_no_overdraft(desk: Desk) -> None:
    refused("OVERDRAFT_NOT_ALLOWED", lambda: overdraft(desk, ANN, 1))
    refused("OVERDRAFT_NOT_ALLOWED", lambda: overdraft(desk, outside_of(ANN), 1, "o2"))


def test_takes_no_overdraft_back_that_is_in_use_or_held(desk: Desk) -> None:
    overdraft(desk, SHOP, 500)
    desk.run(Post(SHOP, SHOP_FEES, 1200))
    place = Decide([SHOP], lambda work: holds.place(work, SHOP, 100, "pay_1", "ins_1", None, Draft(SHOP.slot, "EUR")))
    desk.run(place)
    refused("OVERDRAFT_IN_USE", lambda: overdraft(desk, SHOP, 299, "o2"))
    assert overdraft(desk, SHOP, 300, "o3").floor_minor == -300
