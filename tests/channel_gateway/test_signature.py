"""The signature on notifications."""

from __future__ import annotations

import pytest

from channel_gateway.signature import SignatureInvalid, sign, verify

KEYS = {"old": b"secret-old", "new": b"secret-new"}
BODY = b'{"a": 1}'
NOW_S = 1_700_000_000


@pytest.mark.parametrize("key_id", ["old", "new"])
def test_both_keys_of_a_rotation_are_taken(key_id: str) -> None:
    assert verify(sign(KEYS[key_id], key_id, NOW_S, BODY), BODY, KEYS, NOW_S + 10, 300) == key_id


@pytest.mark.parametrize(
    ("header", "body", "now_s"),
    [
        (sign(KEYS["new"], "new", NOW_S, BODY), BODY + b" ", NOW_S),
        (sign(KEYS["new"], "old", NOW_S, BODY), BODY, NOW_S),
        (sign(b"", "unknown", NOW_S, BODY), BODY, NOW_S),
        (sign(b"\x00" * 32, "unknown", NOW_S, BODY), BODY, NOW_S),
        (sign(KEYS["new"], "new", NOW_S, BODY), BODY, NOW_S + 301),
        (sign(KEYS["new"], "new", NOW_S, BODY), BODY, NOW_S - 301),
        ("", BODY, NOW_S),
        (f"t={NOW_S},k=new,v1=00", BODY, NOW_S),
        (sign(KEYS["new"], "new", NOW_S, BODY) + ",v1=" + "0" * 64, BODY, NOW_S),
    ],
    ids=["body", "other key", "unknown key", "absent key", "too old", "too new", "missing", "short", "trailing"],
)
def test_what_is_not_signed_rightly_and_lately_is_refused(header: str, body: bytes, now_s: int) -> None:
    with pytest.raises(SignatureInvalid):
        verify(header, body, KEYS, now_s, 300)


def test_the_timestamp_is_part_of_what_is_signed() -> None:
    later = sign(KEYS["new"], "new", NOW_S, BODY).replace(str(NOW_S), str(NOW_S + 100))
    with pytest.raises(SignatureInvalid):
        verify(later, BODY, KEYS, NOW_S + 100, 300)
