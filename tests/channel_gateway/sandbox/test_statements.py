"""Statements of the provider's book: true to it, or different by script, and the same whenever they are asked for."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import mt940
import pytest
from defusedxml import ElementTree
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.sandbox.book import Book
from channel_gateway.sandbox.entries import OrderBody, OrderRequest, Timing
from channel_gateway.sandbox.settings import SandboxSettings
from channel_gateway.sandbox.statement import (
    DAY_MS,
    Difference,
    Fee,
    Movement,
    StatementScript,
    Teller,
    date_of,
)
from channel_gateway.sandbox.statement_formats import CSV_HEADER, StatementFormat, decimal
from channel_gateway.sandbox.statements import Statements
from paykit.clock import ManualClock
from tests.channel_gateway.provider import ADMIN_KEY, CHANNEL, LIVE_KEY, WALLET, Provider, ProviderProcess

NOON_MS = 1_799_928_000_000  # 2027-01-14T12:00Z
DAY = date_of(NOON_MS)
NEXT_DAY = DAY + timedelta(days=1)
NS = {"c": "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"}
_CHARGE_FEE = {"charge": {"basis_points": 150, "fixed_minor": 25}}
# The longest reference there is: a channel order id.
_REFERENCE = "chn_{:026d}".format


class Bank:
    """A book on a clock that the test moves, and its statements."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = SandboxSettings.model_validate(
            {
                "book_path": folder / "book.sqlite",
                "admin_key": "a",
                "accounts": {"card": {"api_key": "k", "notification_key": "n", "merchant": "m-1", "fees": _CHARGE_FEE}},
            }
            | settings
        )
        self.clock = ManualClock(NOON_MS)
        self.book = Book(self.settings.book_path, self.clock, Timing(settle_ms=0, late_ms=DAY_MS))
        self.statements = Statements(self.settings, self.clock)
        self._orders = 0

    async def order(self, kind: Any, amount_minor: int, token: str = "tok_ok", **body: Any) -> str:
        """Books an order; its reference."""
        self._orders += 1
        reference = _REFERENCE(self._orders)
        fields: dict[str, Any] = {"currency": "EUR", "token": token} | body
        content = OrderBody(reference=reference, amount_minor=amount_minor, **fields)
        await self.book.place(
            OrderRequest(kind=kind, account="card", livemode=True, idempotency_key=reference, body=content), None
        )
        return reference

    async def file(self, day: date = DAY, format_: StatementFormat = "csv") -> str:
        """A whole file."""
        return b"".join([chunk async for chunk in self.statements.stream("card", day, format_)]).decode()

    async def rows(self, day: date = DAY) -> list[dict[str, str]]:
        """The rows of the CSV."""
        return list(csv.DictReader((await self.file(day)).splitlines()))

    async def lines(self, day: date = DAY) -> list[tuple[str, str, str]]:
        """(type, amount, currency) of each line between the balances."""
        rows = await self.rows(day)
        return [(r["type"], r["amount"], r["currency"]) for r in rows if r["type"] not in ("OPENING", "CLOSING")]

    async def balances(self, day: date = DAY) -> list[str]:
        """Opening and closing, of each currency."""
        return [row["amount"] for row in await self.rows(day) if row["type"] in ("OPENING", "CLOSING")]


@pytest.fixture
async def bank(tmp_path: Path) -> AsyncIterator[Bank]:
    bank = Bank(tmp_path)
    await bank.book.start()
    yield bank
    await bank.book.stop()


async def fill(bank: Bank) -> tuple[str, str]:
    """A day with one order of each kind, of which only some move money; (charge, authorisation)."""
    charge = await bank.order("charge", 10_000)
    await bank.order("charge", 999, "tok_declined")
    await bank.order("refund", 2_500, original_reference=charge)
    await bank.order("payout", 700)
    authorization = await bank.order("authorize", 5_000)
    await bank.order("capture", 1_234, original_reference=authorization)
    await bank.order("charge", 300, "tok_customer_late")  # settles a day later
    return charge, authorization


async def test_a_statement_is_the_movements_of_its_day_with_their_fees_between_two_balances(bank: Bank) -> None:
    charge, _ = await fill(bank)
    assert await bank.lines() == [
        ("CHARGE", "100.00", "EUR"),
        ("FEE", "-1.75", "EUR"),
        ("REFUND", "-25.00", "EUR"),
        ("PAYOUT", "-7.00", "EUR"),
        ("CAPTURE", "12.34", "EUR"),
    ]
    assert await bank.balances() == ["0.00", "78.59"]
    first, second, refund = (await bank.rows())[1:4]
    assert (first["reference"], first["merchant"], first["date"]) == (charge, "m-1", DAY.isoformat())
    assert first["provider_reference"].startswith("sbx_charge_")
    assert second["reference"] == charge
    assert refund["original_reference"] == charge


async def test_a_day_begins_with_the_balance_that_the_day_before_ended_with(bank: Bank) -> None:
    await fill(bank)
    bank.clock.advance(DAY_MS + 1)
    assert await bank.lines(NEXT_DAY) == [("CHARGE", "3.00", "EUR"), ("FEE", "-0.30", "EUR")]
    assert await bank.balances(NEXT_DAY) == ["78.59", "81.29"]
    assert await bank.balances() == ["0.00", "78.59"]
    assert await bank.balances(DAY - timedelta(days=1)) == ["0.00", "0.00"]


async def test_every_format_tells_the_same(bank: Bank) -> None:
    await fill(bank)
    await bank.order("charge", 1_500, currency="JPY")
    rows = await bank.rows()
    told = [row for row in rows if row["type"] not in ("OPENING", "CLOSING")]
    assert _camt(await bank.file(format_="camt053")) == [_told(row) for row in told]
    assert _mt940(await bank.file(format_="mt940")) == [_told(row) for row in told]


def _told(row: dict[str, str]) -> tuple[str, ...]:
    columns = ("type", "line_id", "amount", "currency", "reference", "provider_reference", "original_reference")
    return tuple(row[name] for name in columns)


def _camt(text: str) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for statement in ElementTree.fromstring(text).findall(".//c:Stmt", NS):
        codes = [code.text for code in statement.findall("c:Bal/c:Tp/c:CdOrPrtry/c:Cd", NS)]
        assert codes == ["OPBD", "CLBD"]
        entries = statement.findall("c:Ntry", NS)
        assert statement.findtext("c:TxsSummry/c:TtlNtries/c:NbOfNtries", None, NS) == str(len(entries))
        for entry in entries:
            amount = entry.find("c:Amt", NS)
            assert amount is not None
            assert entry.findtext("c:Sts/c:Cd", None, NS) == "BOOK"
            sign = "-" if entry.findtext("c:CdtDbtInd", None, NS) == "DBIT" else ""
            references = [
                str(entry.findtext(f"c:NtryDtls/c:TxDtls/c:Refs/{path}", "", NS))
                for path in ("c:EndToEndId", "c:AcctSvcrRef", "c:Prtry/c:Ref")
            ]
            kind = str(entry.findtext("c:BkTxCd/c:Prtry/c:Cd", "", NS))
            line_id = str(entry.findtext("c:AcctSvcrRef", "", NS))
            lines.append((kind, line_id, f"{sign}{amount.text}", amount.attrib["Ccy"], *references))
    return lines


def _mt940(text: str) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for message in text.split("-\r\n")[:-1]:
        assert all(len(line) <= 65 for line in message.split("\r\n"))
        for transaction in mt940.parse(message):
            data = transaction.data
            words = dict(word.lstrip("/").split("/", 1) for word in data["transaction_details"].splitlines())
            currency = data["amount"].currency
            assert data["id"] == ("NCHG" if words["TYPE"] == "FEE" else "NTRF")
            lines.append(
                (
                    words["TYPE"], data["bank_reference"], str(data["amount"].amount), currency,
                    words["EREF"], words["PREF"], words.get("OREF", ""),
                )
            )  # fmt: skip
    return lines


@pytest.mark.parametrize(
    ("difference", "lines"),
    [
        ("missing_line", []),
        ("duplicate_line", [("CHARGE", "4.00"), ("CHARGE", "4.00")]),
        ("repeated_line", [("CHARGE", "4.00"), ("CHARGE", "4.00")]),
        ("extra_line", [("CHARGE", "4.00"), ("CHARGE", "4.00")]),
        ("swapped_sign", [("CHARGE", "-4.00")]),
        ("next_day", []),
    ],
)
async def test_a_token_names_how_its_line_differs(bank: Bank, difference: str, lines: list[tuple[str, str]]) -> None:
    await bank.order("charge", 400, f"tok_ok__statement_{difference}")
    told = [line[:2] for line in await bank.lines()]
    assert [line for line in told if line[0] != "FEE"] == lines
    closing = (await bank.balances())[1]
    assert float(closing) == pytest.approx(sum(float(amount) for _, amount in told))
    rows = [row for row in await bank.rows() if row["type"] == "CHARGE"]
    ids = [row["line_id"] for row in rows]
    assert (len(set(ids)) == len(ids)) is (difference != "repeated_line")
    assert len({row["reference"] for row in rows}) == (2 if difference == "extra_line" else min(1, len(rows)))


async def test_a_line_of_the_next_day_is_there_then_and_in_its_balances(bank: Bank) -> None:
    await bank.order("charge", 400, "tok_ok__statement_next_day")
    await bank.order("charge", 500)
    assert await bank.balances() == ["0.00", "4.67"]
    assert [line[:2] for line in await bank.lines(NEXT_DAY)] == [("CHARGE", "4.00"), ("FEE", "-0.31")]
    assert await bank.balances(NEXT_DAY) == ["4.67", "8.36"]
    assert await bank.balances(NEXT_DAY + timedelta(days=1)) == ["8.36", "8.36"]


async def test_a_wrong_amount_and_a_wrong_currency_are_told_so(bank: Bank) -> None:
    await bank.order("charge", 400, "tok_ok__statement_wrong_amount")
    await bank.order("charge", 500, "tok_ok__statement_wrong_currency")
    lines = [line for line in await bank.lines() if line[0] == "CHARGE"]
    (_, amount, currency), foreign = lines
    assert (4.0 < float(amount) < 10.0, currency) == (True, "EUR")
    assert foreign == ("CHARGE", "5.00", "USD")


async def test_a_file_may_be_cut_off_or_close_with_a_wrong_balance(bank: Bank) -> None:
    for _ in range(20):
        await bank.order("charge", 400)
    true = await bank.file()
    bank.statements.script = StatementScript({Difference.TRUNCATED: 1.0})
    cut = await bank.file()
    assert true.startswith(cut)
    assert 0 < len(cut) < len(true)
    assert await bank.file() == cut
    bank.statements.script = StatementScript({Difference.WRONG_CLOSING: 1.0})
    wrong = await bank.file()
    assert wrong != true
    assert wrong.splitlines()[:-1] == true.splitlines()[:-1]


_TELLER = Teller(
    account="card",
    seed=7,
    script=StatementScript(dict.fromkeys(Difference, 0.1)),
    fees={"charge": Fee(basis_points=150, fixed_minor=25)},
)


def _movement(number: int, amount_minor: int, kind: str, copy_no: int = 0) -> Movement:
    return Movement(
        sequence=number,
        kind=kind,
        amount_minor=amount_minor,
        currency="EUR",
        reference=_REFERENCE(number),
        provider_reference=f"sbx_{number}",
        original_reference="",
        token="tok_ok",
        copy_no=copy_no,
        settle_at_ms=NOON_MS,
    )


@given(
    numbers=st.lists(st.integers(1, 10**9), unique=True, max_size=30),
    amount_minor=st.integers(1, 10**15),
    kind=st.sampled_from(["charge", "capture", "refund", "payout"]),
)
def test_the_same_seed_tells_the_same_of_each_order_whatever_came_before_it(
    numbers: list[int], amount_minor: int, kind: str
) -> None:
    forwards = {n: _TELLER.lines(_movement(n, amount_minor, kind)) for n in numbers}
    again = msgspec.structs.replace(_TELLER)
    assert {n: again.lines(_movement(n, amount_minor, kind)) for n in reversed(numbers)} == forwards


def test_each_difference_comes_about_as_often_as_its_rate_says() -> None:
    def chosen(teller: Teller) -> list[Difference | None]:
        return [teller.difference(_movement(n, 100, "charge")) for n in range(2_000)]

    counts = Counter(chosen(_TELLER))
    of_lines = [difference for difference in Difference if difference not in ("wrong_closing", "truncated")]
    assert all(60 < counts[difference] < 260 for difference in of_lines)
    assert chosen(msgspec.structs.replace(_TELLER, seed=8)) != chosen(_TELLER)


def test_the_second_booking_of_an_order_is_never_left_out_by_rate() -> None:
    told = {_TELLER.difference(_movement(n, 100, "charge", copy_no=1)) for n in range(2_000)}
    assert Difference.MISSING_LINE not in told
    assert Difference.DUPLICATE_LINE in told


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (-1_050, "EUR", "-10.50"),
        (5, "EUR", "0.05"),
        (1_500, "JPY", "1500"),
        (-1_234, "KWD", "-1.234"),
        (0, "EUR", "0.00"),
    ],
)
def test_an_amount_has_the_decimals_of_its_currency(amount_minor: int, currency: str, text: str) -> None:
    assert decimal(amount_minor, currency) == text


async def test_a_day_that_is_over_is_written_to_the_folder_once(tmp_path: Path) -> None:
    bank = Bank(tmp_path, statement_folder=tmp_path / "out", statement_formats=["csv", "mt940"])
    await bank.book.start()
    await bank.order("charge", 400)
    true = await bank.file()
    bank.clock.advance(DAY_MS)
    await bank.statements.write_files(tmp_path / "out")
    paths = [tmp_path / "out" / "card" / f"{DAY.isoformat()}.{extension}" for extension in ("csv", "sta")]
    written_at_ns = paths[0].stat().st_mtime_ns
    await bank.statements.write_files(tmp_path / "out")
    await bank.book.stop()
    assert paths[0].read_text() == true
    assert paths[0].stat().st_mtime_ns == written_at_ns
    assert paths[1].read_text().startswith(":20:")
    assert not (tmp_path / "out" / "card" / f"{NEXT_DAY.isoformat()}.csv").exists()


async def test_an_account_sees_its_own_statement_and_an_admin_every_one(
    provider: Provider, process: ProviderProcess, session: aiohttp.ClientSession
) -> None:
    await provider.charge("statement-1", "tok_ok", amount_minor=4_711)
    today = datetime.now(UTC).date()

    async def asked(key: str, query: str = "", day: str = today.isoformat()) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {key}"}
        async with session.get(f"{process.url}/v1/statements/{day}?{query}", headers=headers) as answer:
            return answer.status, await answer.text()

    status, text = await asked(LIVE_KEY)
    assert status == 200
    assert text.startswith(",".join(CSV_HEADER))
    assert "47.11" in text
    # Another account's name changes nothing for who is no admin.
    assert (await asked(LIVE_KEY, f"account={WALLET}"))[1].count("CHARGE,") == text.count("CHARGE,")
    assert (await asked(ADMIN_KEY, f"account={CHANNEL}&format=camt053"))[1].count("<Sts>") >= 1
    assert "47.11" not in (await asked(ADMIN_KEY, f"account={WALLET}&format=mt940"))[1]
    refusals = [
        await asked("wrong", f"account={CHANNEL}"),
        await asked(ADMIN_KEY, "account=nobody"),
        await asked(LIVE_KEY, "format=pdf"),
        await asked(LIVE_KEY, day="yesterday"),
        await asked(LIVE_KEY, day=(today + timedelta(days=3)).isoformat()),
    ]
    assert [status for status, _ in refusals] == [401, 400, 400, 400, 404]


async def test_only_an_admin_scripts_the_statements(process: ProviderProcess, session: aiohttp.ClientSession) -> None:
    async def posted(key: str, content: dict[str, Any]) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        async with session.post(f"{process.url}/v1/statement-script", json=content, headers=headers) as answer:
            return answer.status

    contents: Iterable[dict[str, Any]] = (
        {"rates": {"missing_line": 0.5}}, {"rates": {"missing_line": 2}}, {"rates": {"nonsense": 0.1}}, {},
    )  # fmt: skip
    assert [await posted(ADMIN_KEY, content) for content in contents] == [200, 400, 400, 200]
    assert await posted(LIVE_KEY, {}) == 401
