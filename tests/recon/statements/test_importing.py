"""Files through the real store: what agrees is settled, what differs is a break, and nothing is half imported."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from paykit.context import mint
from paykit.errors import FailedPrecondition, InvalidArgument
from paykit.store.store import Store
from recon.matching import BreakType, MatchKind
from recon.statements.importing import Importer, Phase
from recon.statements.model import Format
from recon.statements.settings import ChannelStatements
from recon.tables import Break, Statement
from tests.recon.repair_support import Desk, rules_with
from tests.recon.statements.support import (
    CHANNEL,
    CSV,
    NOW_MS,
    csv_file,
    import_file,
    lines_in,
    of_order,
    open_breaks,
    order,
    orders_in,
    plant,
    row,
    rules,
    statements,
)

EARLY, LATE = "2026-11-20", "2026-11-26"


async def statements_in(store: Store) -> list[Statement]:
    rows = await store.fetch_everywhere(Statement, select(Statement.__table__), shadow=False)
    return sorted(rows, key=lambda one: one.id)


async def test_a_file_that_agrees_settles_its_orders(store: Store, importer: Importer) -> None:
    orders = [order(slot, 1_000 + slot) for slot in (0, 1, 1, 600, 1023)]
    refund = order(5, 300, kind="REFUND")
    await plant(store, [*orders, refund])
    rows = [of_order(one, f"L{number}") for number, one in enumerate([*orders, refund])]
    fee = row("FEE", "L0F", "-0.10", orders[0].id)
    done = await import_file(importer, csv_file([*rows, fee]))
    assert done.phase is Phase.DONE
    assert (done.read_lines, done.stored_lines, done.matched_lines, done.opened_breaks) == (7, 7, 6, 0)
    assert done.statement is not None
    assert (done.statement.state, done.statement.line_count, done.statement.known_line_count) == ("DONE", 7, 0)
    lines = {line.match_ref: line for line in await lines_in(store) if line.kind == "MOVEMENT"}
    for one in (await orders_in(store)).values():
        assert (one.settlement, one.statement_line_id, one.break_id) == ("AGREED", lines[one.id].id, None)
    assert await open_breaks(store) == []


async def test_each_difference_is_a_break_of_its_type(store: Store, importer: Importer) -> None:
    amount, currency, twice = (order(slot) for slot in range(3))
    failed = order(3, state="FAILED")
    held = order(7, kind="AUTHORIZE")
    late = order(4, business_date=EARLY)
    elsewhere = order(8, channel="sandbox_bank")
    nowhere = order(9)
    await plant(store, [amount, currency, twice, failed, late, held, elsewhere])
    rows = [
        of_order(amount, "1", 1_250),
        of_order(currency, "2", currency="USD"),
        of_order(twice, "3"),
        of_order(twice, "4"),
        of_order(failed, "5"),
        of_order(late, "6"),
        of_order(held, "7"),
        of_order(elsewhere, "8"),
        of_order(nowhere, "9"),
        row("CHARGE", "10", "7.00", "", "nobody-knows"),
        row("CHARGE", "11", "8.00", "our own words"),
    ]
    done = await import_file(importer, csv_file(rows))
    lines = {line.provider_line_id: line for line in await lines_in(store)}
    assert {number: line.difference for number, line in lines.items()} == {
        "1": "AMOUNT_MISMATCH",
        "2": "CURRENCY_MISMATCH",
        "3": "",
        "4": "DUPLICATE",
        "5": "STATUS_MISMATCH",
        "6": "LATE",
        "7": "STATUS_MISMATCH",
        "8": "DUPLICATE",
        "9": "MISSING_HERE",
        "10": "UNEXPLAINED",
        "11": "UNEXPLAINED",
    }
    assert await open_breaks(store) == sorted(
        [
            ("AMOUNT_MISMATCH", amount.id, 250),
            ("CURRENCY_MISMATCH", currency.id, 1_000),
            ("DUPLICATE", twice.id, 1_000),
            ("STATUS_MISMATCH", failed.id, 1_000),
            ("LATE", late.id, 1_000),
            ("STATUS_MISMATCH", held.id, 1_000),
            ("DUPLICATE", elsewhere.id, 1_000),
            ("MISSING_HERE", nowhere.id, 1_000),
            ("UNEXPLAINED", lines["10"].id, 700),
            ("UNEXPLAINED", lines["11"].id, 800),
        ]
    )
    assert done.opened_breaks == 10
    found = await orders_in(store)
    assert found[twice.id].settlement == "AGREED"
    assert found[amount.id].settlement == "BROKEN"
    assert found[amount.id].break_id == lines["1"].break_id
    assert found[elsewhere.id].settlement == "OPEN"
    breaks = {one.id: one for one in await store.fetch_everywhere(Break, select(Break.__table__), shadow=False)}
    told = breaks[lines["1"].break_id or ""]
    assert (told.biz_id, told.channel, told.channel_order_id) == (amount.biz_id, CHANNEL, amount.id)
    assert (told.subject_id, told.difference_minor) == (lines["1"].id, 250)
    assert "line 2 of 2026-11-29: 12.50 EUR" in told.evidence


async def test_what_was_given_back_already_is_closed_where_its_statement_shows_it(
    store: Store, importer: Importer
) -> None:
    failed, twice = order(1, state="FAILED"), order(2, provider_reference="ref-1")
    await plant(store, [failed, twice])
    desks = [Desk(store, rules_with(), slot=one.slot) for one in (failed, twice)]
    repaired = []
    for desk, one, type_ in zip(desks, (failed, twice), (BreakType.LATE, BreakType.DUPLICATE), strict=True):
        broken = await desk.opened(type_, 1_000, MatchKind.PAY_CHANNEL, channel=CHANNEL, channel_order_id=one.id)
        repair = await desk.advance(await desk.approve(await desk.propose(broken)))
        await desk.told(repair, message_id=repair.id)
        repaired.append(f"REPAIRED {repair.id}")
    rows = [
        row("CHARGE", "1", "10.00", failed.id, "ref-9"),
        of_order(twice, "2"),
        row("CHARGE", "3", "10.00", twice.id, "ref-2"),
    ]
    await import_file(importer, csv_file(rows))
    closed = await store.fetch_everywhere(Break, select(Break.__table__), shadow=False)
    assert await open_breaks(store) == []
    stated = {one.channel_order_id: one.close_reason for one in closed if one.kind == MatchKind.STATEMENT}
    assert stated == {failed.id: repaired[0], twice.id: repaired[1]}
    # The gateway asks about a reference where the order was done twice, and there alone.
    named = {(one.type, one.provider_reference) for one in closed if one.kind == MatchKind.STATEMENT}
    assert named == {("STATUS_MISMATCH", ""), ("DUPLICATE", "ref-2")}


async def test_an_only_line_of_another_booking_does_not_settle_where_references_are_those_of_answers(
    store: Store, tmp_path: Path
) -> None:
    one = order(1, provider_reference="ref-1")
    await plant(store, [one])
    declared = ChannelStatements(format=Format.CSV, csv=CSV, references="ANSWERS")
    importer = Importer(store, statements(spool_path=tmp_path, channels={CHANNEL: declared}), rules())
    await import_file(importer, csv_file([row("CHARGE", "1", "10.00", one.id, "ref-2")]))
    assert await open_breaks(store) == [("DUPLICATE", one.id, 1_000)]
    assert (await orders_in(store))[one.id].settlement == "OPEN"
    (broken,) = await store.fetch_everywhere(Break, select(Break.__table__), shadow=False)
    assert "10.00 EUR, named ref-2; our order" in broken.evidence
    assert broken.evidence.endswith(", named ref-1")
    await import_file(importer, csv_file([row("FEE", "2", "-1.00")]), business_date="2026-12-05")
    assert await open_breaks(store) == [("DUPLICATE", one.id, 1_000), ("MISSING_THERE", one.id, 1_000)]
    late = row("CHARGE", "3", "10.00", one.id, "ref-1", day="2026-12-06")
    await import_file(importer, csv_file([late]), business_date="2026-12-06")
    assert await open_breaks(store) == [("DUPLICATE", one.id, 1_000)]
    assert (await orders_in(store))[one.id].settlement == "AGREED"


async def test_a_line_finds_its_order_by_the_providers_reference(store: Store, importer: Importer) -> None:
    held = order(1, kind="AUTHORIZE", provider_reference="pi_1")
    taken = order(2, kind="CAPTURE", provider_reference="pi_1")
    other = order(3, channel="sandbox_bank", provider_reference="pi_2")
    await plant(store, [held, taken, other])
    rows = [row("CAPTURE", "1", "10.00", "", "pi_1"), row("CHARGE", "2", "10.00", "", "pi_2")]
    await import_file(importer, csv_file(rows))
    first, second = await lines_in(store)
    assert (first.match_ref, first.slot, first.difference) == (taken.id, 2, "")
    assert (second.match_ref, second.difference) == (second.id, "UNEXPLAINED")


async def test_what_is_missing_there_is_a_break_once_its_grace_is_over(store: Store, importer: Importer) -> None:
    old, recent, failed = order(1, business_date=LATE), order(2), order(3, state="FAILED", business_date=LATE)
    await plant(store, [old, recent, failed])
    await import_file(importer, csv_file([row("FEE", "1", "-1.00", day="2026-11-27")]), business_date="2026-11-27")
    assert await open_breaks(store) == []
    done = await import_file(importer, csv_file([row("FEE", "2", "-1.00")]), business_date="2026-11-28")
    assert await open_breaks(store) == [("MISSING_THERE", old.id, 1_000)]
    assert done.opened_breaks == 1
    found = await orders_in(store)
    assert [found[one.id].settlement for one in (old, recent, failed)] == ["BROKEN", "OPEN", "NOT_EXPECTED"]
    await import_file(importer, csv_file([row("FEE", "3", "-1.00")]))
    assert await open_breaks(store) == [("MISSING_THERE", old.id, 1_000)]  # not a second time
    # It comes at last: nothing is wrong with it any more, not even that it is late.
    await import_file(importer, csv_file([of_order(old, "4", day="2026-12-05")]), business_date="2026-12-05")
    assert ("LATE", old.id, 1_000) not in await open_breaks(store)
    assert (await orders_in(store))[old.id].settlement == "AGREED"
    closed = await store.fetch_everywhere(Break, select(Break.__table__), shadow=False)
    assert [one.close_reason for one in closed if one.match_key.endswith(old.id)] == ["LATE_MATCH"]


async def test_the_same_file_and_the_same_lines_are_imported_once(store: Store, importer: Importer) -> None:
    one, other, wrong = order(1), order(2), order(3)
    await plant(store, [one, other, wrong])
    data = csv_file([of_order(one, "1"), of_order(wrong, "3", 5), of_order(one, "1")])
    first = await import_file(importer, data)
    assert first.statement is not None
    assert (first.statement.line_count, first.statement.known_line_count) == (2, 1)
    before = (await lines_in(store), await orders_in(store), await open_breaks(store))
    again = await import_file(importer, data)
    assert (again.was_known, again.statement) == (True, first.statement)
    assert (await lines_in(store), await orders_in(store), await open_breaks(store)) == before
    more = await import_file(importer, csv_file([of_order(one, "1"), of_order(wrong, "3", 5), of_order(other, "2")]))
    assert more.statement is not None
    assert (more.statement.line_count, more.statement.known_line_count) == (1, 2)
    assert len(await lines_in(store)) == 3
    assert await open_breaks(store) == before[2]
    shadow = await import_file(importer, data, context=mint(0, NOW_MS, shadow=True))
    assert not shadow.was_known
    assert len(await lines_in(store, shadow=True)) == 2


async def test_lines_without_an_id_are_told_apart_by_how_often_they_come(store: Store, tmp_path: Path) -> None:
    one = order(1)
    await plant(store, [one])
    importer = Importer(store, statements(spool_path=tmp_path), rules())
    rows = [of_order(one, ""), of_order(one, ""), row("FEE", "", "-1.00"), row("FEE", "", "-1.00")]
    await import_file(importer, csv_file(rows))
    assert [line.difference for line in await lines_in(store)] == ["", "DUPLICATE", "", ""]
    more = await import_file(importer, csv_file([*rows, row("FEE", "", "-1.00")]))
    assert more.statement is not None
    assert (more.statement.line_count, more.statement.known_line_count) == (1, 4)


async def test_a_bad_file_is_refused_whole_with_its_lines(store: Store, importer: Importer) -> None:
    one = order(1)
    await plant(store, [one])
    rows = [row("OPENING", "", "5.00"), of_order(one, "1"), "CHARGE,2", of_order(one, "1", 7)]
    with pytest.raises(InvalidArgument) as caught:
        await import_file(importer, csv_file([*rows, row("CLOSING", "", "15.00")]))
    assert caught.value.reason == "STATEMENT_INVALID"
    assert caught.value.violations == [("line 4", "has 2 columns, the heading has 7")]
    with pytest.raises(InvalidArgument) as caught:
        await import_file(importer, csv_file([rows[0], rows[1], row("CLOSING", "", "15.01")]))
    assert caught.value.violations == [
        ("line 4", "closes with 1501 EUR (minor units), the opening balance and the lines give 1500")
    ]
    with pytest.raises(InvalidArgument) as caught:
        await import_file(importer, csv_file([rows[1], rows[3]]))
    assert caught.value.violations == [("line 3", "has the id of line 2, and says otherwise")]
    with pytest.raises(InvalidArgument):
        await import_file(importer, csv_file(rows[:1]))  # never closed
    with pytest.raises(InvalidArgument):
        await import_file(importer, csv_file(rows[1:2]), size_bytes=3)
    with pytest.raises(InvalidArgument):
        await import_file(importer, csv_file(rows[1:2]), sha256="0" * 64)
    assert await statements_in(store) == []
    assert await lines_in(store) == []


async def test_a_line_that_says_otherwise_later_refuses_the_file_and_names_the_statement(
    store: Store, importer: Importer
) -> None:
    orders = [order(slot) for slot in range(0, 1024, 64)]
    await plant(store, orders)
    first = await import_file(importer, csv_file([of_order(orders[0], "L0")]))
    assert first.statement is not None
    rows = [of_order(one, f"L{number}", 999) for number, one in enumerate(orders)]
    with pytest.raises(FailedPrecondition) as caught:
        await import_file(importer, csv_file(rows))
    assert (caught.value.reason, caught.value.subject) == ("LINE_CHANGED", first.statement.id)
    assert len(await lines_in(store)) == 1
    assert sorted(one.state for one in await statements_in(store)) == ["ABANDONED", "DONE"]
    with pytest.raises(FailedPrecondition):
        await import_file(importer, csv_file(rows))  # the file was not taken: it is looked at again


async def test_a_corrected_file_takes_the_place_of_the_first(store: Store, importer: Importer) -> None:
    kept, fixed, gone, added, still = (order(slot) for slot in range(1, 6))
    await plant(store, [kept, fixed, gone, added, still])
    rows = [of_order(kept, "1"), of_order(fixed, "2", 5), of_order(gone, "3"), of_order(still, "4", 7)]
    first = await import_file(importer, csv_file(rows))
    assert first.statement is not None
    before = {line.match_ref: line for line in await lines_in(store)}
    corrected = [of_order(kept, "1"), of_order(fixed, "2"), of_order(added, "5"), of_order(still, "4", 7)]
    done = await import_file(importer, csv_file(corrected), replaces_id=first.statement.id)
    assert done.statement is not None
    assert (done.opened_breaks, done.closed_breaks) == (0, 1)
    old, new = sorted(await statements_in(store), key=lambda one: one.revision)
    assert (old.state, old.replaced_by_id, new.state, new.replaces_id) == ("REPLACED", new.id, "DONE", old.id)
    assert await open_breaks(store) == [("AMOUNT_MISMATCH", still.id, 993)]
    found = await orders_in(store)
    told = {one.id: one.settlement for one in found.values()}
    assert [told[one.id] for one in (kept, fixed, gone, added, still)] == [
        "AGREED",
        "AGREED",
        "OPEN",
        "AGREED",
        "BROKEN",
    ]
    after = {line.match_ref: line for line in await lines_in(store) if line.state == "CURRENT"}
    assert {line.statement_id for line in after.values()} == {new.id}
    assert after[still.id].break_id == before[still.id].break_id  # the break goes on under the new line
    # Lines of the corrected file are known, also to a file that corrects nothing.
    more = await import_file(importer, csv_file([of_order(kept, "1"), of_order(added, "5"), of_order(gone, "3")]))
    assert more.statement is not None
    assert (more.statement.line_count, more.statement.known_line_count) == (1, 2)
    assert (await orders_in(store))[gone.id].settlement == "AGREED"
    with pytest.raises(FailedPrecondition):
        await import_file(importer, csv_file([row("FEE", "9", "1.00")]), replaces_id=old.id)
