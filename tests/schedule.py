"""Which process of a test run takes what: a file at a time; of the end-to-end tests, all that share a system."""

from __future__ import annotations

import re
from typing import Any

from xdist.scheduler import LoadFileScheduling

_OF_A_SYSTEM = re.compile(r"^(tests/e2e)/.*\[(embedded|full)\b")


class BySystem(LoadFileScheduling):  # type: ignore[misc]  # has no types
    """A system is started once, not once for each file whose tests use it."""

    def _split_scope(self, nodeid: str) -> str:
        found = _OF_A_SYSTEM.match(nodeid)
        return f"{found[1]}[{found[2]}]" if found else str(super()._split_scope(nodeid))


def scheduler(config: Any, log: Any) -> BySystem | None:
    """What ``--dist loadfile`` is to be; None for any other."""
    return BySystem(config, log) if config.getvalue("dist") == "loadfile" else None
