"""Bundles as such: what goes together, within which bounds, and that it comes out as it went in."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paykit.events import bundle
from paykit.events.bundle import BUNDLE, UnreadableBundle, is_bundle, pack, unpack
from paykit.events.message import MESSAGE_ID, Message

SUBJECT = "live.pay.payment_succeeded"


def event(number: int, subject: str = SUBJECT, body: bytes = b"body") -> Message:
    id_ = f"m-{number}"
    return Message(id_, subject, {MESSAGE_ID: id_, "x-biz-id": f"biz-{number}"}, body)


def events_of(message: Message) -> list[Message]:
    """What a message of the bus carries."""
    return unpack(message.subject, message.headers, message.body) if is_bundle(message.headers) else [message]


messages = st.lists(
    st.builds(
        lambda id_, subject, headers, body: Message(id_, subject, headers, body),
        st.one_of(st.just(""), st.integers(0, 40).map("m-{}".format), st.text(max_size=20)),
        st.sampled_from([SUBJECT, "shadow.pay.payment_succeeded", "live.ledger.journal_posted"]),
        st.dictionaries(st.text(max_size=12).filter(lambda name: name != BUNDLE), st.text(max_size=12), max_size=4),
        st.binary(max_size=60),
    ),
    max_size=90,
)


@given(messages, st.integers(1, 70), st.integers(1, 400))
def test_all_that_went_in_comes_out_once(given_: list[Message], events_max: int, bytes_max: int) -> None:
    parcels = pack(given_, events_max, bytes_max)
    assert sorted(place for parcel in parcels for place in parcel.places) == list(range(len(given_)))
    for parcel in parcels:
        events = events_of(parcel.message)
        assert len(events) <= events_max
        assert len(events) == 1 or len(parcel.message.body) <= bytes_max
        told = [given_[place] for place in parcel.places]
        assert {(one.subject, one.id) for one in told} == {(one.subject, one.id) for one in events}
        assert all(one in told for one in events)  # headers and body are those of the first of its copies
    keys = [(one.subject, one.id) for parcel in parcels for one in events_of(parcel.message) if one.id]
    assert len(keys) == len(set(keys))


@given(messages)
def test_the_same_events_make_the_same_bundle(given_: list[Message]) -> None:
    ids = [parcel.message.id for parcel in pack(given_) if is_bundle(parcel.message.headers)]
    assert ids == [parcel.message.id for parcel in pack(given_) if is_bundle(parcel.message.headers)]
    assert len(set(ids)) == len(ids)
    assert all(len(id_) <= 32 for id_ in ids)  # a ticket keeps it whole


@pytest.mark.parametrize("count", [2, 15, 16, 17, 300])
def test_a_bundle_is_a_msgpack_array_of_its_events(count: int) -> None:
    (parcel,) = pack([event(number) for number in range(count)], events_max=1000)
    assert msgspec.msgpack.decode(parcel.message.body) == [
        [f"m-{number}", {MESSAGE_ID: f"m-{number}", "x-biz-id": f"biz-{number}"}, b"body"] for number in range(count)
    ]
    assert parcel.message.headers[MESSAGE_ID] == parcel.message.id


def test_what_is_alone_goes_as_it_is() -> None:
    one, other, nameless = event(1), event(2, "live.ledger.journal_posted"), Message("", SUBJECT, {}, b"")
    assert pack([one]) == [(one, (0,))]
    assert pack([one, other]) == [(one, (0,)), (other, (1,))]
    assert pack([nameless, nameless]) == [(nameless, (0,)), (nameless, (1,))]
    assert pack([]) == []


def test_subjects_and_modes_share_no_bundle() -> None:
    subjects = [SUBJECT, "shadow.pay.payment_succeeded", "live.pay.payment_failed"]
    parcels = pack([event(number, subjects[number % 3]) for number in range(30)])
    assert [parcel.message.subject for parcel in parcels] == subjects
    assert [len(parcel.places) for parcel in parcels] == [10, 10, 10]


def test_a_second_copy_goes_with_the_first() -> None:
    (parcel,) = pack([event(1), event(2), event(1)])
    assert sorted(parcel.places) == [0, 1, 2]
    assert [one.id for one in events_of(parcel.message)] == ["m-1", "m-2"]
    assert pack([event(1), event(1)]) == [(event(1), (0, 1))]


def test_what_is_larger_than_a_bundle_goes_by_itself() -> None:
    large = event(2, body=b"x" * 1000)
    parcels = pack([event(1), large, event(3), event(4)], bytes_max=500)
    assert [parcel.places for parcel in parcels] == [(0,), (1,), (2, 3)]
    assert parcels[1].message is large


def test_what_cannot_be_encoded_takes_no_other_with_it() -> None:
    odd = Message("m-9", SUBJECT, {"x": "\ud800"}, b"")
    parcels = pack([event(1), odd, event(2)])
    assert {parcel.places for parcel in parcels} == {(1,), (0, 2)}


@pytest.mark.parametrize(
    ("version", "body"),
    [("2", b"\x90"), ("1", b""), ("1", b"\xff\x00"), ("1", b"\x91\x91\xa1a"), ("1", msgspec.msgpack.encode("text"))],
    ids=["of another form", "empty", "no msgpack", "an event too short", "no list"],
)
def test_says_what_it_cannot_read(version: str, body: bytes) -> None:
    with pytest.raises(UnreadableBundle):
        unpack(SUBJECT, {BUNDLE: version}, body)


def test_a_bundle_is_well_under_what_a_server_takes() -> None:
    assert 4 * bundle.BYTES_MAX <= 1024 * 1024
