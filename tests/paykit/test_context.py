"""The business context is the same after every way it travels."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paykit import context as contexts
from paykit.context import BusinessContext, current, current_or_none, mint, use
from paykit.ids import is_id, slot_in, time_ms_in

NOW_MS = 1_700_000_000_000
VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=64)

some_context = st.builds(
    lambda slot, code, request, trace, shadow, criticality: BusinessContext(
        biz_id=mint(slot, NOW_MS).biz_id,
        biz_code=code,
        request_id=request,
        traceparent=trace,
        shadow=shadow,
        criticality=criticality,
    ),
    st.integers(0, 1023),
    VISIBLE,
    VISIBLE,
    VISIBLE,
    st.booleans(),
    st.sampled_from([1, 2, 3]),
)


@given(some_context)
def test_metadata_carries_it_whole(context: BusinessContext) -> None:
    assert contexts.from_metadata(dict(contexts.to_metadata(context))) == context


@given(some_context)
def test_a_batch_item_carries_it_whole(context: BusinessContext) -> None:
    assert contexts.from_proto(contexts.to_proto(context)) == context


@given(some_context, st.integers(0, 2**60) | st.none())
def test_a_row_stores_it_with_caller_and_deadline(context: BusinessContext, deadline_ms: int | None) -> None:
    stored = msgspec.structs.replace(context, caller="trade_core", deadline_ms=deadline_ms)
    assert contexts.unpack(contexts.pack(stored)) == stored


@given(some_context)
def test_the_caller_travels_in_no_metadata(context: BusinessContext) -> None:
    named = msgspec.structs.replace(context, caller="trade_core")
    assert contexts.to_metadata(named) == contexts.to_metadata(context)
    found = contexts.from_metadata(dict(contexts.to_metadata(named)), caller="recon", deadline_ms=5)
    assert found is not None
    assert (found.caller, found.deadline_ms) == ("recon", 5)


@pytest.mark.parametrize("biz_id", ["", "biz_1", "trd_00000000000000000000000000", "biz_" + "u" * 26])
def test_without_a_business_id_of_the_right_form_there_is_no_context(biz_id: str) -> None:
    assert contexts.from_metadata({contexts.BIZ_ID: biz_id}) is None


@pytest.mark.parametrize("criticality", ["", "0", "4", "high"])
def test_a_criticality_nobody_knows_is_the_normal_one(criticality: str) -> None:
    found = contexts.from_metadata({contexts.BIZ_ID: mint(1, NOW_MS).biz_id, contexts.CRITICALITY: criticality})
    assert found is not None
    assert found.criticality == 2


def test_minting_makes_an_id_of_the_slot_and_a_trace_of_its_own() -> None:
    one, other = mint(9, NOW_MS), mint(9, NOW_MS)
    assert is_id(one.biz_id, "biz")
    assert (slot_in(one.biz_id), time_ms_in(one.biz_id)) == (9, NOW_MS)
    assert one.biz_id != other.biz_id
    assert one.traceparent != other.traceparent
    version, trace_id, span_id, flags = one.traceparent.split("-")
    assert (version, len(trace_id), len(span_id), flags) == ("00", 32, 16, "01")


def test_the_mode_follows_the_shadow_flag() -> None:
    assert mint(1, NOW_MS).mode == "live"
    assert mint(1, NOW_MS, shadow=True).mode == "shadow"


def test_outside_an_operation_there_is_no_context() -> None:
    assert current_or_none() is None
    with pytest.raises(LookupError):
        current()


def test_a_block_gives_back_the_context_there_was_before() -> None:
    outer, inner = mint(1, NOW_MS), mint(2, NOW_MS)
    with use(outer):
        with use(inner):
            assert current() is inner
        assert current() is outer
    assert current_or_none() is None


async def test_tasks_do_not_see_each_others_context() -> None:
    async def serve(context: BusinessContext) -> bool:
        contexts.set_current(context)
        await asyncio.sleep(0)
        return current() is context

    assert all(await asyncio.gather(*(serve(mint(i, NOW_MS)) for i in range(10))))
    assert current_or_none() is None
