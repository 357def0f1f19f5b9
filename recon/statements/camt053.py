"""ISO 20022 camt.053, of any version: read as a stream of elements, nothing of which is kept once it is read.

Document types and entities are refused. Only booked entries count. An entry of several transactions (a batch) becomes
a line for each of them, and they must add up to it; an entry without details is one line by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO
from xml.sax import SAXParseException
from xml.sax.handler import ContentHandler

import msgspec
from defusedxml.common import DefusedXmlException
from defusedxml.expatreader import DefusedExpatParser

from recon.statements import model
from recon.statements.model import Balance, BalanceKind, Declared, Item, Line, LineKind, Problem, Unreadable
from recon.statements.settings import Camt053Settings

_NAMESPACE = re.compile(r"urn:iso:std:iso:20022:tech:xsd:camt\.053\.001\.\d{2}")
_CHUNK_BYTES = 1 << 16
_DEPTH_MAX = 64
_TEXT_MAX = 10_000  # characters of one element
_VALUES_MAX = 2_000  # elements of one transaction, or of one entry beside its transactions
_DETAILS_MAX = 100_000  # transactions of one entry
_OPENING, _CLOSING = ("OPBD", "PRCD"), ("CLBD",)
_FOREIGN = "?"  # stands for every element of another namespace

_Values = dict[str, str]


class _Part(msgspec.Struct):
    """What an element of interest held: the texts below it by path, and the line it began on."""

    line_no: int
    values: _Values = {}
    details: list[_Part] = []


class _Handler(ContentHandler):
    """Takes elements, and makes items of statements, balances and entries as they end."""

    def __init__(self, declared: Declared, settings: Camt053Settings) -> None:
        super().__init__()
        self.items: list[Item] = []
        self.has_statement = False
        self._declared, self._settings = declared, settings
        self._path: list[str] = []
        self._text: list[str] = []
        self._chars = 0
        self._statement = _Part(0)
        self._balance: _Part | None = None
        self._entry: _Part | None = None
        self._detail: _Part | None = None
        self._bases: list[int] = []  # how deep the parts that are open began
        self.locator: Any = None  # the parser, which is fed and tells nobody where it is by itself

    @property
    def line_no(self) -> int:
        """Of what is being read."""
        return max(1, self.locator.getLineNumber() or 1) if self.locator is not None else 1

    def startElementNS(self, name: tuple[str | None, str], qname: str | None, attributes: Any) -> None:
        uri, local = name
        is_ours = uri is not None and _NAMESPACE.fullmatch(uri) is not None
        if not self._path and not (is_ours and local == "Document"):
            raise Unreadable("the document is not a camt.053")
        if len(self._path) >= _DEPTH_MAX:
            raise Unreadable(f"elements lie deeper than {_DEPTH_MAX}")
        self._path.append(local if is_ours else _FOREIGN)
        self._text, self._chars = [], 0
        self._begin(local if is_ours else _FOREIGN)
        currency = attributes.get((None, "Ccy"))
        if currency is not None:
            self._keep("@Ccy", currency)

    def _begin(self, local: str) -> None:
        parent = self._path[-2] if len(self._path) > 1 else ""
        if local == "Stmt" and parent == "BkToCstmrStmt":
            self.has_statement = True
            self._statement = self._part()
        elif local == "Bal" and parent == "Stmt":
            self._balance = self._part()
        elif local == "Ntry" and parent == "Stmt":
            self._entry = self._part()
        elif local == "TxDtls" and parent == "NtryDtls" and self._entry is not None:
            if len(self._entry.details) >= _DETAILS_MAX:
                raise Unreadable(f"an entry has more than {_DETAILS_MAX} transactions")
            self._detail = self._part()
            self._entry.details.append(self._detail)

    def _part(self) -> _Part:
        self._bases.append(len(self._path))
        return _Part(self.line_no, {}, [])

    def characters(self, content: str) -> None:
        self._chars += len(content)
        if self._chars > _TEXT_MAX:
            raise Unreadable(f"an element holds more than {_TEXT_MAX} characters")
        self._text.append(content)

    def endElementNS(self, name: tuple[str | None, str], qname: str | None) -> None:
        text = "".join(self._text).strip()
        if text:
            self._keep("", text)
        self._text, self._chars = [], 0
        local = self._path[-1]
        if self._bases and self._bases[-1] == len(self._path):
            self._bases.pop()
            self._end(local)
        self._path.pop()

    def _keep(self, suffix: str, text: str) -> None:
        """Keeps a text of the innermost part that is open, the first one of its path."""
        if not self._bases:
            return
        part = self._detail or self._entry or self._balance or self._statement
        if len(part.values) >= _VALUES_MAX:
            raise Unreadable(f"an entry has more than {_VALUES_MAX} elements")
        part.values.setdefault("/".join(self._path[self._bases[-1] :]) + suffix, text)

    def _end(self, local: str) -> None:
        if local == "TxDtls":
            self._detail = None
        elif local == "Ntry" and self._entry is not None:
            entry, self._entry = self._entry, None
            self._add(entry.line_no, lambda: self._lines(entry))
        elif local == "Bal" and self._balance is not None:
            balance, self._balance = self._balance, None
            self._add(balance.line_no, lambda: self._balances(balance))

    def _add(self, line_no: int, make: Any) -> None:
        try:
            self.items.extend(make())
        except Unreadable as error:
            self.items.append(Problem(line_no, str(error)))

    def _account(self) -> str:
        values = self._statement.values
        found = _first(values, ("Acct/Id/IBAN", "Acct/Id/Othr/Id"))
        return model.reference_of(found) or self._declared.account

    def _balances(self, part: _Part) -> Iterable[Item]:
        values = part.values
        code = _first(values, ("Tp/CdOrPrtry/Cd",))
        if code not in (*_OPENING, *_CLOSING):
            return
        kind = BalanceKind.OPENING if code in _OPENING else BalanceKind.CLOSING
        amount_minor, currency = _amount(values)
        sign = _sign(values)
        day = self._day(values, ("Dt/Dt", "Dt/DtTm"))
        yield Balance(part.line_no, self._account(), kind, sign * amount_minor, currency, day)

    def _day(self, values: _Values, paths: tuple[str, ...]) -> str:
        found = _first(values, paths)
        return model.iso_date(found) if found else self._declared.business_date

    def _lines(self, entry: _Part) -> Iterable[Item]:
        values = entry.values
        if _first(values, ("Sts/Cd", "Sts")) not in ("BOOK", ""):
            return  # announced only
        amount_minor, currency = _amount(values)
        sign = _sign(values)
        whole = Line(
            line_no=entry.line_no,
            account=self._account(),
            line_id=model.reference_of(_first(values, ("AcctSvcrRef", "NtryRef"))),
            kind=self._kind(values),
            reference=model.reference_of(_named(values, self._settings.reference)),
            provider_reference=model.reference_of(_named(values, self._settings.provider_reference)),
            amount_minor=sign * amount_minor,
            fee_minor=0,
            currency=currency,
            business_date=self._day(values, ("BookgDt/Dt", "BookgDt/DtTm", "ValDt/Dt", "ValDt/DtTm")),
            is_reversal=_first(values, ("RvslInd",)) in ("true", "1"),
        )
        yield from self._divided(entry, whole)

    def _divided(self, entry: _Part, whole: Line) -> Iterable[Item]:
        """A line for each transaction of an entry, or the entry itself where it has at most one."""
        if not entry.details:
            # What it goes by is the bank's own reference of the entry: there is nothing else.
            provider_reference = whole.provider_reference or whole.line_id
            yield msgspec.structs.replace(whole, provider_reference=provider_reference)
            return
        lines = []
        for number, detail in enumerate(entry.details, start=1):
            values = detail.values
            amount_minor, sign = abs(whole.amount_minor), 1 if whole.amount_minor >= 0 else -1
            if len(entry.details) > 1:
                amount_minor, currency = _amount(values, ("", "AmtDtls/TxAmt/"))
                if currency != whole.currency:
                    raise Unreadable("a transaction is in another currency than its entry")
                sign = _sign(values) if "CdtDbtInd" in values else sign
            own = model.reference_of(_named(values, self._settings.provider_reference))
            line_id = f"{whole.line_id}/{number}" if whole.line_id and len(entry.details) > 1 else whole.line_id
            lines.append(
                msgspec.structs.replace(
                    whole,
                    line_no=detail.line_no,
                    line_id=model.reference_of(line_id),
                    kind=whole.kind if whole.kind is not LineKind.MOVEMENT else self._kind(values),
                    reference=model.reference_of(_named(values, self._settings.reference)) or whole.reference,
                    provider_reference=own or (whole.line_id if len(entry.details) == 1 else ""),
                    amount_minor=sign * amount_minor,
                )
            )
        if sum(line.amount_minor for line in lines) != whole.amount_minor:
            raise Unreadable("the transactions of an entry do not add up to it")
        yield from lines

    def _kind(self, values: _Values) -> LineKind:
        codes = {
            _first(values, (path,)) for path in ("BkTxCd/Domn/Fmly/Cd", "BkTxCd/Domn/Fmly/SubFmlyCd", "BkTxCd/Prtry/Cd")
        }
        if codes & set(self._settings.fee_codes):
            return LineKind.FEE
        return LineKind.TRANSFER if codes & set(self._settings.transfer_codes) else LineKind.MOVEMENT


def read(stream: BinaryIO, declared: Declared, settings: Camt053Settings) -> Iterator[Item]:
    """The items of a camt.053 document. After what is no XML, or none that is allowed, nothing more is read."""
    parser: Any = DefusedExpatParser(namespaceHandling=1, forbid_dtd=True)
    handler = _Handler(declared, settings)
    parser.setContentHandler(handler)
    handler.locator = parser
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            parser.feed(chunk)
            yield from handler.items
            handler.items.clear()
        parser.close()
        yield from handler.items
    except SAXParseException as error:
        yield from handler.items
        yield Problem(max(1, error.getLineNumber() or 1), "is not well-formed XML")
        return
    except DefusedXmlException:
        yield from handler.items
        yield Problem(handler.line_no, "has a document type or an entity, which are refused")
        return
    except Unreadable as error:
        yield from handler.items
        yield Problem(handler.line_no, str(error))
        return
    except (ValueError, LookupError):  # an encoding that expat cannot use
        yield Problem(handler.line_no, "is in an encoding that cannot be read")
        return
    if not handler.has_statement:
        yield Problem(handler.line_no, "has no statement")


def _first(values: _Values, paths: Iterable[str]) -> str:
    return next((values[path] for path in paths if values.get(path)), "")


def _named(values: _Values, paths: Iterable[str]) -> str:
    """The first text that names something: banks write NOTPROVIDED where there is nothing."""
    return next((text for path in paths if (text := values.get(path, "")) and text != "NOTPROVIDED"), "")


def _amount(values: _Values, under: tuple[str, ...] = ("",)) -> tuple[int, str]:
    for path in under:
        text = values.get(f"{path}Amt")
        if text is not None:
            currency = model.currency_of(values.get(f"{path}Amt@Ccy", ""))
            amount_minor = model.decimal_of(text, currency)
            if amount_minor < 0:
                raise Unreadable("an amount has a sign, where CdtDbtInd tells it")
            return amount_minor, currency
    raise Unreadable("has no amount")


def _sign(values: _Values) -> int:
    found = values.get("CdtDbtInd")
    if found == "CRDT":
        return 1
    if found == "DBIT":
        return -1
    raise Unreadable("CdtDbtInd is neither CRDT nor DBIT")
