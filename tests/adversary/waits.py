"""The settings of a run beside those of a fault run: short pauses everywhere, so that what asks again does so in it."""

from __future__ import annotations

from pathlib import Path

from tests.adversary.misdeeds import LATER_MS, VERY_LATE_MS

_RULES = Path(__file__).with_name("rules.yaml")
# No error that lasts makes a queue wait for minutes: a run has none of them to spare.
_LIMITS = {"LIMITS__BREAKER__OPEN_S": "1", "LIMITS__BREAKER__OPEN_MAX_S": "4"}
# What is not found after 18 s is asked about again when what comes very late has come; twice, for answers lie.
_CHANNEL = _LIMITS | {"NOT_FOUND_AGAIN_AFTER_S": "[18, 24]"}


def waits(seed: int, channels: list[str]) -> dict[str, str]:
    """Environment variables for every process of the stack, and the checker."""
    return {
        "PAYMESH_PAY_CORE__RULES_PATH": str(_RULES),
        "PAYMESH_SANDBOX__SEED": str(seed),
        "PAYMESH_SANDBOX__LATER_MS": str(LATER_MS),
        "PAYMESH_SANDBOX__VERY_LATE_MS": str(VERY_LATE_MS),
        # The day after the last covers the last.
        "PAYMESH_RECON__STATEMENTS__GRACE_DAYS": "1",
        # A stray charge is given back by itself where it is small; a larger one waits for two people.
        "PAYMESH_RECON__REPAIRS__AUTOMATIC_BY_TYPE": '{"LATE": {"EUR": 2500}, "DUPLICATE": {"EUR": 2500}}',
        "PAYMESH_RECON__REPAIRS__DELAY_S": "3",
        "PAYMESH_RECON__REPAIRS__ANSWER_S": "3",
        "PAYMESH_RECON__REPAIRS__ANSWER_MAX_S": "10",
        "PAYMESH_RECON__REPAIRS__LOOK_S": "3",
        **{
            f"PAYMESH_CHANNEL_GATEWAY__CHANNELS__{channel.upper()}__{key}": value
            for channel in channels
            for key, value in _CHANNEL.items()
        },
    }
