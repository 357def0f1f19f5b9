"""How long recon waits, how often it asks, and who owns what it finds: the settings that decisions need."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from recon.matching import BreakType
from recon.pair import Windows
from recon.repair import RepairRules


class Rules(msgspec.Struct, frozen=True):
    """Times in milliseconds. ``owners`` has an owner for every BreakType."""

    window_ms: int  # how long a side may be silent before it is asked
    expected_ms: int  # how long nobody may speak of what was sent before it is asked about; doubles with each
    expected_max_ms: int  # … up to this
    ask_delay_ms: int  # before the second question; doubles with each
    ask_delay_max_ms: int
    no_answer_age_ms: int  # a silent side that cannot be asked, or cannot tell yet, is a break at this age
    ask_age_ms: int  # beyond this age a break waits for an event or a person; nobody is asked any more
    owners: Mapping[BreakType, str]
    repairs: RepairRules

    @property
    def windows(self) -> Windows:
        """How long is waited before a silent side is asked."""
        return Windows(self.window_ms, self.expected_ms)

    def next_expected_ms(self, ask_count: int) -> int:
        """As ``next_ask_ms``, of what was sent and of which nobody has spoken: slow channels take a day."""
        return int(min(self.expected_max_ms, self.expected_ms * 2 ** min(ask_count - 1, 32)))

    def next_ask_ms(self, ask_count: int) -> int:
        """How long after the question number ``ask_count`` (from 1) the next one is due."""
        return int(min(self.ask_delay_max_ms, self.ask_delay_ms * 2 ** min(ask_count - 1, 32)))


class SweepRules(msgspec.Struct, frozen=True):
    """How the sweep goes about it. Times in milliseconds, but for the timeout of a step."""

    interval_ms: int
    ages_ms: tuple[int, ...]  # what ended so long ago is compared, once at each age
    span_max_ms: int
    begin_back_ms: int
    timeout_s: float
    rows_max: int

    def pause_ms(self, level: int) -> int:
        """Between two looks of a level: often at what has just ended, and seldom at what is old."""
        return self.interval_ms if level == 0 else max(self.interval_ms, self.ages_ms[level] // 12)
