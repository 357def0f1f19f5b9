"""What a service answers when it is asked about the side of a match that has kept silent."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from recon.matching import Fact


class Verdict(StrEnum):
    """What an answer means for the match, where its facts do not settle it."""

    NO = "NO"  # definitely not: the record does not exist, or says otherwise
    LATER = "LATER"  # not yet, or it cannot tell
    UNREACHABLE = "UNREACHABLE"  # nobody answered


class Answer(msgspec.Struct, frozen=True):
    """The facts stand before the verdict: a lost event is made good by them, and then nothing is missing."""

    verdict: Verdict
    evidence: str  # what was said, for people
    facts: tuple[Fact, ...] = ()
