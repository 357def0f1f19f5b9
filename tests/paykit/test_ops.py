"""Timelines of several services as one."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from paykit.ops import merged
from paymesh.ops.v1.ops_service_pb2 import TimelineEntry


def entry(service: str, ms: int) -> TimelineEntry:
    """What a service did at a time."""
    return TimelineEntry(service=service, time=Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000))


def test_timelines_are_merged_by_time_and_within_a_millisecond_in_the_order_of_calls() -> None:
    first = [entry("first", 1), entry("first", 1000), entry("first", 2500)]
    second = [entry("second", 1), entry("second", 999), entry("second", 2500)]
    found = [(item.service, item.time.ToMilliseconds()) for item in merged([first, second])]
    assert found == [
        ("first", 1),
        ("second", 1),
        ("second", 999),
        ("first", 1000),
        ("first", 2500),
        ("second", 2500),
    ]
    assert merged([]) == []
