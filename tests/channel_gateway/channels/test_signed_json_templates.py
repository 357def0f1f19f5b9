"""Texts with placeholders: what is refused at start, and that no two calls are signed alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from channel_gateway.channels.signed_json_document import DocumentInvalid, parse_document
from channel_gateway.channels.signed_json_signatures import signed_bytes, sorted_fields
from channel_gateway.channels.signed_json_templates import (
    BodyTemplate,
    HeaderTemplate,
    PathTemplate,
    SignatureHeaderTemplate,
    SignedByProviderTemplate,
    SignedRequestTemplate,
    parse,
    parse_signature_header,
    parse_signed,
)

VALUES: dict[str, st.SearchStrategy[str]] = {
    "method": st.sampled_from(["GET", "POST"]),
    "path": st.from_regex(r"/[a-z0-9/%?&=.-]{0,6}", fullmatch=True),
    "timestamp": st.from_regex(r"[0-9TZ:+-]{1,4}", fullmatch=True),
    "nonce": st.from_regex(r"[a-f0-9]{1,3}", fullmatch=True),
    "key_id": st.from_regex(r"[a-z.-]{1,3}", fullmatch=True),
    "order_id": st.from_regex(r"[a-z0-9_]{1,3}", fullmatch=True),
}
SEPARATORS = st.sampled_from(["\n", ".", "|", "", ",", "\n\n", "-", " "])


@st.composite
def signed_templates(draw: st.DrawFn) -> str:
    """Texts that end with the whole body."""
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=4, unique=True))
    return draw(SEPARATORS) + "".join(f"{{{name}}}{draw(SEPARATORS)}" for name in names) + "{body}" + draw(SEPARATORS)


@given(signed_templates(), st.data())
def test_two_calls_with_the_same_signed_text_are_one_call(text: str, data: st.DataObject) -> None:
    try:
        template = parse_signed(text)
    except ValueError:
        assume(False)
    drawn = [
        ({name: data.draw(VALUES[name]) for name in template.names if name != "body"}, data.draw(st.binary(max_size=4)))
        for _ in range(2)
    ]
    one, other = (signed_bytes(template, values, body, ()) for values, body in drawn)
    assert (one == other) == (drawn[0] == drawn[1])


@pytest.mark.parametrize(
    "text",
    [
        "{method}{body}",
        "{timestamp}{body}",
        "{path}.{body}",
        "{order_id}_{body}",
        "{nonce}a{body}",
        "{body}\n{path}",
        "{sorted_fields}&{body}",
        "{body}{body}",
        "{timestamp}",
        "nothing",
    ],
)
def test_what_could_be_signed_alike_for_two_calls_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"needs a character|must be the last|twice|signs nothing"):
        parse_signed(text)


FIELDS = st.dictionaries(
    st.text(alphabet="ab=&", min_size=1, max_size=3), st.text(alphabet="ab=&", max_size=3), max_size=4
)


@given(FIELDS, FIELDS)
def test_two_objects_with_the_same_sorted_fields_say_the_same(one: dict[str, str], other: dict[str, str]) -> None:
    try:
        texts = sorted_fields(one, ()), sorted_fields(other, ())
    except DocumentInvalid:
        return  # one of them could be read in two ways, and is not taken at all
    said = [{key: value for key, value in fields.items() if value} for fields in (one, other)]
    assert (texts[0] == texts[1]) == (said[0] == said[1])


def test_sorted_fields_leave_out_what_is_empty_and_what_is_not_signed() -> None:
    document = parse_document(b'{"b": "x=y", "a": 1.50, "d": true, "c": "", "e": null, "sign": "s"}')
    assert sorted_fields(document, {"sign"}) == "a=1.50&b=x=y&d=true"
    for body in (b"[]", b'{"a": {}}', b'{"a": "1&b=2"}', b'{"a=b": "c"}', b'{"a&": "c"}'):
        with pytest.raises(DocumentInvalid):
            sorted_fields(parse_document(body), ())


@given(st.data())
def test_a_signature_header_is_read_as_it_was_written(data: st.DataObject) -> None:
    text = data.draw(
        st.sampled_from(["t={timestamp},k={key_id},v1={signature}", "{signature}", 'id="{key_id}";s="{signature}"'])
    )
    template = parse_signature_header(text)
    values = {
        name: data.draw(VALUES.get(name, st.from_regex(r"[a-f0-9]{2,8}", fullmatch=True))) for name in template.names
    }
    match = template.pattern().fullmatch(template.render(values))
    assert match is not None
    assert match.groupdict() == values


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        (PathTemplate, "v1/orders", "pattern"),
        (PathTemplate, "/v1/orders/{order_id} ", "pattern"),
        (PathTemplate, "/v1/../{order_id}#x", "pattern"),
        (PathTemplate, "/v1/{token}", "is not known here"),
        (PathTemplate, "/v1/{orderid}", "is not known here"),
        (PathTemplate, "/v1/{order_id", "brace"),
        (HeaderTemplate, "a\nb", "pattern"),
        (HeaderTemplate, "{body}", "is not known here"),
        (BodyTemplate, "{secrets.key}", "is not known here"),
        (BodyTemplate, "{signature}", "is not known here"),
        (BodyTemplate, "x" * 501, "at most 500"),
        (SignedRequestTemplate, "{status}{body}", "is not known here"),
        (SignedByProviderTemplate, "{method}\n{body}", "is not known here"),
        (SignatureHeaderTemplate, "{timestamp}{signature}", "needs a character"),
        (SignatureHeaderTemplate, "{timestamp}5{signature}", "needs a character"),
        (SignatureHeaderTemplate, "{signature},{signature}", "twice"),
    ],
)
def test_a_text_that_makes_no_sense_in_its_place_is_refused(form: Any, text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(form).validate_python(text)


def test_a_text_is_parsed_into_what_it_says() -> None:
    template = parse("/a/{order_id}/{values.app-id}")
    assert (template.texts, template.names) == (("/a/", "/", ""), ("order_id", "values.app-id"))
    assert template.render({"order_id": "1", "values.app-id": "2"}) == "/a/1/2"
    assert (parse("{amount}").sole, template.sole, parse("amount").sole) == ("amount", "", "")
