"""JSON from outside, read strictly."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_gateway.channels.signed_json_document import (
    DocumentInvalid,
    Number,
    build_document,
    colliding,
    find,
    find_text,
    parse_document,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
PATHS = st.lists(st.sampled_from(["a", "b", "c", "0", "1"]), min_size=1, max_size=4).map(".".join)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a": 1, "a": 2}',
        b'{"b": {"a": 1, "a": 1}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1} x',
        b'{"a": ' + b"9" * 41 + b"}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b'{"a": "\xff"}',
        b"{'a': 1}",
        b'{"a": 01}',
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    with pytest.raises(DocumentInvalid):
        parse_document(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_refused(body: bytes) -> None:
    with contextlib.suppress(DocumentInvalid):
        parse_document(body)


@given(JSON, PATHS)
def test_any_document_has_a_single_value_at_a_path_or_none_or_is_refused(document: Any, path: str) -> None:
    parsed = parse_document(msgspec.json.encode(document))
    with contextlib.suppress(DocumentInvalid):
        assert isinstance(find(parsed, path), str | bool | None)
        assert isinstance(find_text(parsed, path), str | None)


def test_numbers_stay_as_they_are_written() -> None:
    document = parse_document(b'{"a": 10.50, "b": 1E5, "c": "7", "d": [true, {"e": -0}]}')
    assert [find_text(document, path) for path in ("a", "b", "c", "d.0", "d.1.e")] == [
        "10.50",
        "1E5",
        "7",
        "true",
        "-0",
    ]
    assert isinstance(find(document, "a"), Number)
    assert not isinstance(find(document, "c"), Number)


def test_nothing_null_and_the_empty_text_are_none_and_tables_are_refused() -> None:
    document = parse_document(b'{"a": null, "b": "", "c": {"d": 1}, "e": [1]}')
    assert [find(document, path) for path in ("a", "b", "x", "c.x", "c.d.x", "e.1", "e.x", "e.-1", "e.0001")] == [
        None
    ] * 9
    for path in ("c", "e"):
        with pytest.raises(DocumentInvalid):
            find(document, path)


@given(st.dictionaries(PATHS, st.text(min_size=1, max_size=5), min_size=1, max_size=5))
def test_what_is_put_at_paths_is_found_there_unless_one_leads_through_another(values: dict[str, str]) -> None:
    if colliding(list(values)):
        leads = [path for path in values if any(path.startswith(f"{other}.") for other in values)]
        assert leads
    else:
        document = parse_document(build_document(values))
        assert {path: find(document, path) for path in values} == values
