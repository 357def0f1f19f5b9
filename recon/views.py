"""Breaks as the protos show them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from paykit.money import format_minor, is_currency
from paymesh.common.v1 import money_pb2
from paymesh.event.v1 import events_pb2
from paymesh.recon.v1 import break_pb2
from recon.matching import BreakState, BreakType, MatchKind, shared_id
from recon.pair import Pair, Said
from recon.tables import Break

KINDS = {kind.value: break_pb2.MatchKind.Value(f"MATCH_KIND_{kind}") for kind in MatchKind}
TYPES = {type_.value: break_pb2.BreakType.Value(f"BREAK_TYPE_{type_}") for type_ in BreakType}
STATES = {state.value: break_pb2.BreakState.Value(f"BREAK_STATE_{state}") for state in BreakState}

_SPEAKERS = {
    MatchKind.TRADE_PAY: ("the trade", "the payment"),
    MatchKind.PAY_CHANNEL: ("the instruction", "the channel order"),
    MatchKind.PAY_LEDGER: ("the instruction", "the journal"),
    MatchKind.TRANSIT: ("the sending journal", "the receiving journal"),
}


def break_to_proto(row: Break) -> break_pb2.Break:
    """A break as the API and the events show it."""
    return break_pb2.Break(
        break_id=row.id,
        biz_id=row.biz_id,
        type=TYPES[row.type],
        state=STATES[row.state],
        match_kind=KINDS[row.kind],
        match_key=shared_id(row.match_key),
        amount_at_risk=money_pb2.Money(currency_code=row.currency, amount_minor=row.amount_minor),
        owner=row.owner,
        evidence=row.evidence,
        close_reason=row.close_reason,
        open_time=_timestamp(row.opened_at_ms),
        close_time=None if row.closed_at_ms is None else _timestamp(row.closed_at_ms),
        version=row.version,
        payment_id=row.payment_id,
        channel=row.channel,
        channel_order_id=row.channel_order_id,
        subject_id=row.subject_id,
        difference_minor=row.difference_minor,
        repair_id=row.repair_id,
    )


def break_to_event(row: Break) -> events_pb2.BreakEvent:
    """The body of recon.break_opened and recon.break_closed."""
    return events_pb2.BreakEvent(**{"break": break_to_proto(row)})  # a keyword of Python


def describe(pair: Pair) -> str:
    """What both sides of a pair say, for people: ``the trade: 10.00 EUR; the payment: nothing``."""
    first, second = _SPEAKERS[MatchKind(pair.kind)]
    parts = [f"{first}: {_said(pair.first)}", f"{second}: {_said(pair.second)}"]
    if pair.second is None and pair.unknown is not None:
        parts.append(f"outcome unknown of {_said(pair.unknown)}")
    elif pair.second is None and pair.expected is not None:
        parts.append(f"sent: {_said(pair.expected)}")
    if pair.conflict:
        parts.append("one side said two different amounts; the larger is shown")
    return "; ".join(parts)


def _said(said: Said | None) -> str:
    if said is None:
        return "nothing"
    amount_minor, currency = said.amount_minor, said.currency
    if amount_minor == 0:
        return "not done"
    return format_minor(amount_minor, currency) if is_currency(currency) else f"{amount_minor} minor {currency!r}"


def _timestamp(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
