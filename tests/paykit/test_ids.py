"""Ids: what they carry comes out again, and slots are where they always were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paykit.ids import ID_LENGTH, SLOT_COUNT, first_id, is_id, new_id, random_bits_in, slot_in, slot_of, time_ms_in

times = st.integers(0, 2**48 - 1)
slots = st.integers(0, SLOT_COUNT - 1)


@given(slots, times)
def test_gives_back_the_slot_and_the_time_it_was_minted_with(slot: int, now_ms: int) -> None:
    id_ = new_id("pay", slot, now_ms)
    assert (slot_in(id_), time_ms_in(id_)) == (slot, now_ms)
    assert is_id(id_)
    assert is_id(id_, "pay")
    assert not is_id(id_, "trd")
    assert len(id_) == ID_LENGTH


@given(slots, times, st.integers(0, 2**72 - 1))
def test_gives_back_what_made_it_differ(slot: int, now_ms: int, bits: int) -> None:
    assert random_bits_in(new_id("stl", slot, now_ms, lambda _: bits)) == bits


@given(slots, slots, times, times)
def test_sorts_by_time_of_minting(slot: int, other_slot: int, earlier: int, later: int) -> None:
    if earlier < later:
        assert new_id("pay", slot, earlier) < new_id("pay", other_slot, later)


@given(slots, times, times)
def test_the_first_id_of_a_time_parts_what_was_minted_before_from_the_rest(slot: int, minted: int, cut: int) -> None:
    assert (new_id("pay", slot, minted) >= first_id("pay", cut)) == (minted >= cut)


@given(st.text(max_size=40))
def test_refuses_what_is_no_id(text: str) -> None:
    if not is_id(text):
        with pytest.raises(ValueError, match="not an id"):
            slot_in(text)


def test_keeps_owners_on_the_slots_that_stored_ids_depend_on() -> None:
    known = {"alice": 649, "bob": 146, "shop": 774, "": 692}
    assert {owner: slot_of(owner) for owner in known} == known
