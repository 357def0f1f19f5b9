"""Copies of rows are new rows: the same relations, no id twice."""

from __future__ import annotations

from bench.bare import Copier
from paykit.clock import SystemClock
from paykit.ids import new_id, slot_in
from trade_core.tables import PayAttempt

NOW_MS = SystemClock().now_ms()


def _attempt() -> PayAttempt:
    trade_id = new_id("trd", 7, NOW_MS)
    return PayAttempt(
        id=new_id("att", 7, NOW_MS),
        slot=7,
        biz_id=new_id("biz", 7, NOW_MS),
        trade_id=trade_id,
        attempt_no=1,
        attempt_key=f"{trade_id}/1",
        state="EFFECTIVE",
        payment_id=new_id("pay", 7, NOW_MS),
        failure_reason="",
        created_at_ms=1,
        finished_at_ms=None,
    )


def test_a_copy_has_new_ids_everywhere_and_keeps_what_belongs_together() -> None:
    original = _attempt()
    values = tuple(getattr(original, name) for name in PayAttempt.__columns__)
    (copy,) = Copier(PayAttempt, [values]).copy({}, NOW_MS)
    assert isinstance(copy, PayAttempt)
    assert copy.attempt_key == f"{copy.trade_id}/1"
    assert slot_in(copy.id) == 7
    for name in ("id", "biz_id", "trade_id", "payment_id", "attempt_key"):
        assert getattr(copy, name) != getattr(original, name), name
    assert (copy.state, copy.attempt_no, copy.finished_at_ms) == ("EFFECTIVE", 1, None)


def test_two_copies_share_no_id() -> None:
    original = _attempt()
    copier = Copier(PayAttempt, [tuple(getattr(original, name) for name in PayAttempt.__columns__)])
    (first,), (second,) = copier.copy({}, NOW_MS), copier.copy({}, NOW_MS)
    assert first.id != second.id
