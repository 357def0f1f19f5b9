"""1: the ledger is balanced, nobody is overdrawn, and what passes through is on its way to somewhere."""

from __future__ import annotations

from collections import Counter

from channel_gateway.sandbox.client import BookEntry
from channel_gateway.tables import ChannelOrder
from meshctl.invariants.base import Invariant, Tally, is_path
from meshctl.invariants.strays import Strays
from meshctl.invariants.world import Slice, grouped
from pay_core.adjustment import ADJUST
from pay_core.chart import CHART, POINTS_UNIT, AccountKind
from pay_core.tables import Account, Adjustment, Entry, Journal
from recon.matching import shared_id

_TERMINAL_ORDER = ("SUCCEEDED", "FAILED")
# Into the provider's account of ours, or out of it.
_DIRECTION = {"charge": 1, "capture": 1, "refund": -1, "payout": -1, "authorize": 0, "void": 0}


def journals_balance(world: Slice, tally: Tally) -> None:
    """Entries of each journal sum to zero in its currency and in points, lie with it, and belong to one."""
    entries = grouped(world.rows(Entry), "journal_id")
    for journal in world.rows(Journal):
        tally.count()
        of_it = entries.pop(journal.id, [])
        for unit in {journal.currency, POINTS_UNIT}:
            total = sum(entry.amount_minor for entry in of_it if entry.currency == unit)
            tally.expect(total == 0, journal.id, f"its entries sum to {total} {unit}")
        tally.expect(bool(of_it), journal.id, "it has no entries")
        for entry in of_it:
            agrees = (entry.slot, entry.payment_id) == (journal.slot, journal.payment_id)
            agrees = agrees and entry.currency in (journal.currency, POINTS_UNIT)
            tally.expect(agrees, entry.id, f"slot, currency or payment differ from {journal.id}")
    for journal_id in entries:
        tally.violate(journal_id, "entries name this journal, which does not exist")


def balances_are_sums(world: Slice, tally: Tally) -> None:
    """Balance = sum of entries, in the account's own currency; no entry without its account."""
    entries = dict(world.entries_of)
    for account in world.rows(Account):
        tally.count()
        of_it = entries.pop(account.id, [])
        total = sum(entry.amount_minor for entry in of_it)
        tally.expect(
            account.balance_minor == total, account.id, f"balance {account.balance_minor}, entries sum to {total}"
        )
        foreign = [entry.id for entry in of_it if entry.currency != account.currency]
        tally.expect(not foreign, account.id, f"entries in another currency than {account.currency}: {foreign[:3]}")
    for account_id in entries:
        tally.violate(account_id, "entries name this account, which does not exist")


def running_balances_chain(world: Slice, tally: Tally) -> None:
    """The running balances of an account's entries lead from zero to their sum without a gap."""
    for account_id, entries in world.entries_of.items():
        tally.count(len(entries))
        edges = [(entry.balance_after_minor - entry.amount_minor, entry.balance_after_minor) for entry in entries]
        total = sum(entry.amount_minor for entry in entries)
        tally.expect(is_path(edges, 0, total), account_id, "the running balances of its entries have a gap")


def slots_balance(world: Slice, tally: Tally) -> None:
    """Entries of each slot sum to zero per currency."""
    sums: Counter[tuple[int, str]] = Counter()
    for entry in world.rows(Entry):
        sums[entry.slot, entry.currency] += entry.amount_minor
        tally.sums[world.mode, entry.currency] += entry.amount_minor
    for (slot, currency), total in sums.items():
        tally.count()
        tally.expect(total == 0, f"slot {slot}", f"its {world.mode} entries sum to {total} {currency}")


def the_whole_balances(tally: Tally) -> None:
    """So do all entries together."""
    for key, total in tally.sums.items():
        tally.expect(total == 0, "the whole", f"the entries of {key} sum to {total}")


def floors_hold(world: Slice, tally: Tally) -> None:
    """What is held never exceeds balance less floor; customers' accounts have a floor."""
    for account in world.rows(Account):
        tally.count()
        tally.expect(account.held_minor >= 0, account.id, f"held {account.held_minor}")
        is_owned = CHART[AccountKind(account.kind)].is_owned
        tally.expect(account.floor_minor is not None or not is_owned, account.id, "a customer's account has no floor")
        if account.floor_minor is not None:
            free_minor = account.balance_minor - account.floor_minor
            tally.expect(
                account.held_minor <= free_minor,
                account.id,
                f"balance {account.balance_minor}, held {account.held_minor}, floor {account.floor_minor}",
            )


def transits_arrive(world: Slice, tally: Tally) -> None:
    """What is sent between slots arrives once, whole; what has not arrived is what IN_TRANSIT holds."""
    for id_, legs in world.legs.items():
        sent = [leg for leg in legs if leg.leg == "SENT"]
        received = [leg for leg in legs if leg.leg == "RECEIVED"]
        if not sent and not received:
            continue
        tally.count()
        known = max(leg.posted_at_ms for leg in (*sent, *received))
        if len(sent) == 1 and not received:
            instruction = world.instructions.get(id_)
            payment_id = "" if instruction is None else instruction.payment_id
            tally.expect(world.may_lag(known, id_, payment_id), id_, "sent into transit and not received")
        else:
            # The slots are not read at the same instant.
            is_whole = len(sent) == len(received) == 1 or world.scope.may_be_unseen(known)
            tally.expect(is_whole, id_, f"{len(sent)} sent, {len(received)} received")
            amounts = {(leg.amount_minor, leg.currency) for leg in (*sent, *received)}
            tally.expect(len(amounts) == 1, id_, f"the two ends differ: {sorted(amounts)}")
        for leg in legs:
            sign = {"SENT": 1, "RECEIVED": -1}.get(leg.leg, 0)
            tally.sums[world.mode, leg.currency] -= sign * leg.amount_minor
    for account in world.rows(Account):
        if account.kind == AccountKind.IN_TRANSIT:
            tally.sums[world.mode, account.currency] += account.balance_minor


def transit_holds_what_is_on_its_way(tally: Tally) -> None:
    """IN_TRANSIT over all slots is what the legs leave there."""
    for key, total in tally.sums.items():
        tally.expect(total == 0, "IN_TRANSIT", f"the accounts of {key} hold {total} more than the journals explain")


def clearing_is_empty(world: Slice, tally: Tally) -> None:
    """Of a payment at rest nothing is left in CLEARING, but what a person has not decided about yet: its open cases."""
    tally.count(sum(1 for account in world.rows(Account) if account.kind == AccountKind.CLEARING))
    for (payment_id, currency), left_minor in world.left_in(AccountKind.CLEARING).items():
        payment = world.payments.get(payment_id)
        state = "SUCCEEDED" if payment is None else payment.state
        if state == "PROCESSING" or (state == "REVERSING" and not world.scope.settled):
            continue
        due_minor = world.in_case.get(payment_id, 0) if state == "REVERSING" else 0
        is_told = left_minor == due_minor or world.is_explained(payment_id)
        tally.expect(is_told, payment_id, f"{left_minor} {currency} of it is left in clearing, {due_minor} in cases")


def outside_mirrors_the_book(world: Slice, tally: Tally) -> None:
    """EXTERNAL per channel and currency = - (charges - refunds - payouts) that succeeded at the provider.

    A provider's order that the ledger may not know yet is left out: its channel order or instruction is under way. Of
    an order that an open break names, what the ledger has of it counts, whatever the provider says. What was set right
    because a statement has a line that the book does not is added.
    """
    for account in world.rows(Account):
        if account.kind == AccountKind.EXTERNAL:
            channel = account.account_key.partition(":")[2].partition("/")[0]
            if world.scope.has_book_of(channel, world.mode):
                tally.sums[world.mode, channel, account.currency] += account.balance_minor
    disputed = {
        order.id
        for order in world.rows(ChannelOrder)
        if world.is_explained(order.id, order.instruction_id, order.payment_id)
    }
    for id_ in disputed:
        order = world.orders[id_]
        instruction = world.instructions.get(order.instruction_id)
        is_mirrored = world.scope.has_book_of(order.channel, world.mode)
        if is_mirrored and instruction is not None and instruction.state == "SUCCEEDED":
            moved = _DIRECTION[order.kind.lower()] * (instruction.moved_minor or instruction.amount_minor)
            tally.sums[world.mode, order.channel, order.currency] += moved
    strays = Strays(world)
    for entry in world.rows(BookEntry):
        is_told = entry.status == "succeeded" and entry.reference not in disputed
        # What no payment counts on never came into the ledger, and neither did what gave it back.
        if is_told and not strays.touches(entry) and not _is_under_way(world, entry):
            known = world.orders.get(entry.reference)
            channel = known.channel if known is not None else world.scope.accounts.get(entry.account, ("", ""))[0]
            tally.sums[world.mode, channel, entry.currency] += _DIRECTION[entry.kind] * entry.amount_minor
    booked = {name for entry in world.rows(BookEntry) for name in (entry.reference, entry.provider_reference)}
    for row in world.rows(Adjustment):
        repair = world.repairs.get(row.repair_id)
        about = {repair.channel_order_id, shared_id(repair.match_key)} - {""} if repair is not None else set()
        is_mirrored = world.scope.has_book_of(row.channel, world.mode)
        is_elsewhere = not any(id_ in booked or id_ in world.orders for id_ in about)
        if row.kind == ADJUST and is_mirrored and (is_elsewhere or about & disputed):
            tally.sums[world.mode, row.channel, row.currency] += row.amount_minor


def _is_under_way(world: Slice, entry: BookEntry) -> bool:
    order = world.orders.get(entry.reference)
    if order is None:
        return world.may_lag(entry.created_at_ms, entry.reference)
    instruction = world.instructions.get(order.instruction_id)
    if instruction is not None and instruction.state == "SUCCEEDED":
        return False
    if order.state not in _TERMINAL_ORDER and not world.scope.settled:
        return True
    return world.may_lag(order.finished_at_ms or order.created_at_ms, order.id, order.instruction_id, order.payment_id)


def the_book_is_mirrored(tally: Tally) -> None:
    """Nothing is left of the sums."""
    for key, total in tally.sums.items():
        tally.count()
        mode, channel, currency = key
        tally.expect(total == 0, f"EXTERNAL:{channel}", f"{mode}: {total} {currency} apart from the book")


INVARIANTS = (
    Invariant("1a", "entries of each journal sum to zero", "journals", journals_balance),
    Invariant("1b", "balance equals sum of entries", "accounts", balances_are_sums),
    Invariant("1c", "running balances chain from zero", "entries", running_balances_chain),
    Invariant("1d", "each slot and the whole sum to zero", "slots × currencies", slots_balance, the_whole_balances),
    Invariant("1e", "no account is under its floor", "accounts", floors_hold),
    Invariant(
        "1f", "what is sent in transit arrives once", "transits", transits_arrive, transit_holds_what_is_on_its_way
    ),
    Invariant("1g", "clearing keeps what is in cases only", "clearing accounts", clearing_is_empty),
    Invariant(
        "1h",
        "EXTERNAL mirrors the provider's book",
        "channels × currencies",
        outside_mirrors_the_book,
        the_book_is_mirrored,
        needs_book=True,
    ),
)
