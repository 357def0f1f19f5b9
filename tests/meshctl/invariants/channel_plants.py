"""Violations of group 2 about channels that orders left, doubts and stray charges."""

from __future__ import annotations

from tests.meshctl.invariants.plants import CHANNEL, RECON, Plant

CHANNELS = (
    Plant(
        "an order that has left more channels than are kept",
        {"2k"},
        ((CHANNEL, "UPDATE channel_order SET attempt_no = 2 WHERE id = (SELECT min(id) FROM channel_order)"),),
    ),
    Plant(
        "a channel that was left and taken again",
        {"2k", "2l"},
        ((CHANNEL, "UPDATE channel_attempt SET channel = 'sandbox_card_b'"),),
    ),
    Plant(
        "a stray charge whose break was closed and that nobody gave back",
        {"2a", "2j", "3b"},
        (
            (
                RECON,
                "UPDATE recon_break SET state = 'CLOSED', close_reason = 'by hand', closed_at_ms = opened_at_ms "
                "WHERE type = 'DUPLICATE'",
            ),
        ),
    ),
    Plant(
        "a settled order that is asked about",
        {"4c"},
        ((CHANNEL, "UPDATE channel_order SET due_at_ms = 1 WHERE id = (SELECT min(id) FROM channel_order)"),),
    ),
    Plant(
        "a doubt that nobody is asked about",
        {"2l", "3b"},
        ((CHANNEL, "UPDATE channel_doubt SET state = 'OPEN'"),),
    ),
    Plant(
        "a confirmed doubt that recon has not heard of",
        {"2l"},
        ((RECON, "UPDATE recon_break SET subject_id = '' WHERE type = 'DUPLICATE'"),),
    ),
)
