"""The settings of pay_core: section ``[pay_core]``."""

from __future__ import annotations

from pathlib import Path

from paykit.settings import Seconds, ServiceSettings


class PayCoreSettings(ServiceSettings):
    """What pay_core adds to every service's settings."""

    channel_result_due_s: Seconds = 15.0  # when to ask for a channel result that no event has brought
    channel_result_due_max_s: Seconds = 3600.0  # the longest pause between two such questions
    drain_s: Seconds = 60.0  # how long a date that is closing waits for its payments under way
    rules_path: Path | None = None  # the rules file, watched for changes; the rules of the package where left out
    compensation_callers: tuple[str, ...] = ("recon",)  # common names, as shell patterns, that may have repairs done
