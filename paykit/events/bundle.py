"""Bundles: several events of one subject in one message of the bus. Only a bus that pays by the message makes them.

A bundle is a msgpack array of events, each an array of id, headers and body. Its own headers say that it is one, in
which form, and carry an id made of the ids in it. To read one by hand, give what the bus holds to ``unpack``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from paykit.events.message import MESSAGE_ID, Message

BUNDLE = "x-bundle"  # the header, which no event has itself; its value is the version of the form
EVENTS_MAX = 64  # of one bundle: a process takes all of one, and others of its service shall have their share
BYTES_MAX = 128 * 1024  # of one bundle: a server takes 1 MB unless it is told otherwise

_VERSION = "1"
_ARRAY_BYTES_MAX = 5  # what msgpack begins an array with


class UnreadableBundle(Exception):
    """What says that it is a bundle cannot be read as one."""


class Parcel(NamedTuple):
    """What goes out as one message of the bus, and the places in the list of those that it carries."""

    message: Message
    places: tuple[int, ...]


class _Event(msgspec.Struct, array_like=True, frozen=True):
    id: str
    headers: dict[str, str]
    body: bytes


class _Packed(NamedTuple):
    """An event on its way into a bundle, and all places that its copies have in the list."""

    message: Message
    encoded: bytes
    places: list[int]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Event]).decode


def is_bundle(headers: Mapping[str, str]) -> bool:
    """Whether a message of the bus with these headers carries several events."""
    return BUNDLE in headers


def pack(messages: Sequence[Message], events_max: int = EVENTS_MAX, bytes_max: int = BYTES_MAX) -> list[Parcel]:
    """All messages, those of one subject together as far as the bounds allow; of an id that a subject has twice, one.

    What stays alone goes out as it is. So does what has no id: nothing could tell a bundle of such from another one.
    """
    if len(messages) == 1:
        return [Parcel(messages[0], (0,))]
    alone: list[Parcel] = []
    by_subject: dict[str, dict[str, _Packed]] = {}
    for place, message in enumerate(messages):
        events = by_subject.setdefault(message.subject, {})
        known = events.get(message.id)
        if known is not None:
            known.places.append(place)
            continue
        encoded = _encoded(message)
        if encoded is None:
            alone.append(Parcel(message, (place,)))
        else:
            events[message.id] = _Packed(message, encoded, [place])
    groups = (list(events.values()) for events in by_subject.values() if events)
    return alone + [_parcel(part) for group in groups for part in _split(group, events_max, bytes_max)]


def _encoded(message: Message) -> bytes | None:
    """None: it has to be alone."""
    if not message.id:
        return None
    try:
        return _encode(_Event(message.id, message.headers, message.body))
    except ValueError:  # no text that could be sent: the bus refuses it, and no other with it
        return None


def _split(events: Sequence[_Packed], events_max: int, bytes_max: int) -> Iterator[Sequence[_Packed]]:
    """In their order; what is larger than a bundle may be is alone."""
    start, size = 0, _ARRAY_BYTES_MAX
    for place, event in enumerate(events):
        if place > start and (place - start == events_max or size + len(event.encoded) > bytes_max):
            yield events[start:place]
            start, size = place, _ARRAY_BYTES_MAX
        size += len(event.encoded)
    yield events[start:]


def _parcel(events: Sequence[_Packed]) -> Parcel:
    places = tuple(place for event in events for place in event.places)
    if len(events) == 1:
        return Parcel(events[0].message, places)
    subject = events[0].message.subject
    id_ = bundle_id(subject, [event.message.id for event in events])
    body = b"".join([_array_of(len(events)), *(event.encoded for event in events)])
    return Parcel(Message(id_, subject, {MESSAGE_ID: id_, BUNDLE: _VERSION}, body), places)


def _array_of(count: int) -> bytes:
    """What msgpack writes before ``count`` elements."""
    if count < 16:
        return bytes([0x90 | count])
    assert count < 1 << 16
    return b"\xdc" + count.to_bytes(2, "big")


def bundle_id(subject: str, ids: Sequence[str]) -> str:
    """The id of a bundle: the same events in the same order make the same one."""
    digest = hashlib.blake2b("\x00".join([subject, *ids]).encode("utf-8", "replace"), digest_size=12)
    return f"bundle-{digest.hexdigest()}"


def unpack(subject: str, headers: Mapping[str, str], body: bytes) -> list[Message]:
    """The events of a bundle, each as it was before. UnreadableBundle where it is none of a form that is known."""
    if headers[BUNDLE] != _VERSION:
        raise UnreadableBundle(f"a bundle of form {headers[BUNDLE][:20]!r}; known is {_VERSION!r}")
    try:
        events = _decode(body)
    except msgspec.MsgspecError as error:
        raise UnreadableBundle(f"no list of events: {error}") from error
    return [Message(event.id, subject, event.headers, event.body) for event in events]
