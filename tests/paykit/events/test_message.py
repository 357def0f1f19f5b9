"""Subjects, names and headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paykit.events.message import Subscription, covers, filters, from_headers, matches, name_of, to_headers
from tests.paykit.events.waits import new_context

_tokens = st.sampled_from(["a", "b", "c"])
_subjects = st.lists(_tokens, min_size=1, max_size=4).map(".".join)
_patterns = st.tuples(
    st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3), st.sampled_from(["", ".>"])
).map(lambda parts: ".".join(parts[0]) + parts[1])


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("pay.a", "pay.a", True),
        ("pay.a", "pay.b", False),
        ("pay.a", "pay.a.b", False),
        ("pay.*", "pay.a", True),
        ("pay.*", "pay", False),
        ("pay.*", "pay.a.b", False),
        ("*.a", "pay.a", True),
        ("pay.>", "pay.a.b", True),
        ("pay.>", "pay", False),
        (">", "pay", True),
    ],
)
def test_matches_as_nats_does(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern, subject) is expected


@given(_patterns, _patterns, _subjects)
def test_a_covering_pattern_matches_whatever_the_covered_one_does(wide: str, narrow: str, subject: str) -> None:
    if covers(wide, narrow) and matches(narrow, subject):
        assert matches(wide, subject)


@given(st.lists(_patterns, min_size=1, max_size=4), _subjects)
def test_filters_lose_no_subject(patterns: list[str], subject: str) -> None:
    if any(matches(pattern, subject) for pattern in patterns):
        assert any(matches(pattern, subject) for pattern in filters(tuple(patterns)))


def test_filters_are_few() -> None:
    assert filters(("pay.a", "pay.b", "ledger.x", "pay.a")) == ("ledger.x", "pay.*")
    assert filters(("pay.>", "pay.a", "pay.b.c")) == ("pay.>",)


def test_a_subscription_knows_its_mode() -> None:
    subscription = Subscription(consumer="c", mode="shadow", subjects=("pay.*",))
    assert subscription.matches("shadow.pay.a")
    assert not subscription.matches("live.pay.a")


def test_names_are_distinct_and_allowed() -> None:
    names = {name_of("core.taker", pattern) for pattern in ("pay.*", "pay.>", "pay.a", ">")}
    assert len(names) == 4
    assert not any(set(name) & set(" .*>/\\") for name in names)


def test_headers_carry_the_context() -> None:
    context = new_context(7, shadow=True)
    headers = to_headers(context, "msg_1")
    assert headers["Nats-Msg-Id"] == "msg_1"
    restored = from_headers(headers, caller="event:c")
    assert restored is not None
    assert (restored.biz_id, restored.traceparent, restored.shadow, restored.caller) == (
        context.biz_id,
        context.traceparent,
        True,
        "event:c",
    )


def test_headers_without_a_business_id_carry_none() -> None:
    assert from_headers({"x-biz-id": "nonsense"}, caller="event:c") is None
