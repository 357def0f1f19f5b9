"""Violations of group 9: breaks, the repairs of them, and what services did for these."""

from __future__ import annotations

from tests.meshctl.invariants.plants import CHANNEL, PAY, RECON, TRADE, Plant

REPAIRS = (
    Plant(
        "a break closed without a reason",
        {"9a"},
        ((RECON, "UPDATE recon_break SET close_reason = '' WHERE repair_id = '' AND state = 'CLOSED'"),),
    ),
    Plant(
        "a break closed by another repair",
        {"9a"},
        (
            (
                RECON,
                "UPDATE recon_break SET repair_id = (SELECT max(id) FROM recon_repair WHERE state <> 'DONE')"
                " WHERE repair_id <> ''",
            ),
        ),
    ),
    Plant(
        "an open break that says why it was closed",
        {"9a"},
        ((RECON, "UPDATE recon_break SET close_reason = 'so' WHERE state = 'OPEN'"),),
    ),
    Plant(
        "a repair approved by its maker",
        {"9b", "9d"},
        ((RECON, "UPDATE recon_repair SET decided_by = 'ANN@example.org' WHERE state = 'DONE'"),),
    ),
    Plant(
        "a repair that nobody approved",
        {"9b"},
        ((RECON, "UPDATE recon_repair SET decided_by = '' WHERE state = 'FAILED'"),),
    ),
    Plant(
        "a rule's repair by hand",
        {"9b"},
        ((RECON, "UPDATE recon_repair SET is_automatic = 0 WHERE state = 'FAILED'"),),
    ),
    Plant(
        "a repair of another break",
        {"9b"},
        ((RECON, "UPDATE recon_repair SET break_type = 'LATE' WHERE state = 'DONE'"),),
    ),
    Plant(
        "a break closed by the repair of another difference",
        {"9a"},
        (
            (
                RECON,
                "UPDATE recon_break SET repair_id = (SELECT max(id) FROM recon_repair WHERE state = 'DONE'),"
                " close_reason = 'REPAIRED ' || (SELECT max(id) FROM recon_repair WHERE state = 'DONE')"
                " WHERE state = 'CLOSED' AND repair_id = ''",
            ),
        ),
    ),
    Plant(
        "two repairs of a break under way",
        {"8a", "9b"},
        (
            (
                RECON,
                "INSERT INTO recon_repair SELECT substr(id, 1, 28) || 'zz', slot, version, biz_id, break_id,"
                " break_type, match_kind, match_key, kind, state, service, channel, payment_id, channel_order_id,"
                " subject_id, currency, amount_minor, evidence, is_automatic, proposed_by, proposal, decided_by,"
                " decision, outcome, detail, effect_id, due_at_ms, ask_count, context, proposed_at_ms, decided_at_ms,"
                " sent_at_ms, finished_at_ms, provider_reference FROM recon_repair WHERE state = 'PROPOSED'",
            ),
        ),
    ),
    Plant(
        "a repair that is done without an effect",
        {"9c"},
        ((PAY, "DELETE FROM compensation"),),
    ),
    Plant(
        "a repair that its service refused, and that is done",
        {"9c"},
        ((PAY, "UPDATE compensation SET outcome = 'REFUSED'"),),
    ),
    Plant(
        "a repair that failed, and that its service has done",
        {"9c"},
        ((TRADE, "UPDATE compensation SET outcome = 'DONE'"),),
    ),
    Plant(
        "a repair that was done and never sent",
        {"3b", "9c"},
        ((RECON, "UPDATE recon_repair SET state = 'APPROVED' WHERE state = 'FAILED'"),),
    ),
    Plant(
        "a compensation that nobody asked for",
        {"9c"},
        ((TRADE, "UPDATE compensation SET repair_id = 'rpr_' || substr(repair_id, 5, 24) || 'zz'"),),
    ),
    Plant(
        "an adjustment of another amount than its journal",
        {"1h", "1n", "9d"},
        ((PAY, "UPDATE adjustment SET amount_minor = amount_minor + 1"),),
    ),
    Plant(
        "an adjustment that nobody asked for",
        {"9c", "9d"},
        ((PAY, "UPDATE adjustment SET repair_id = substr(repair_id, 1, 28) || 'zz'"),),
    ),
    Plant(
        "an opposite journal that is none",
        {"1h", "1n", "9d"},
        ((PAY, "UPDATE adjustment SET kind = 'REVERSE'"),),
    ),
    Plant(
        "a stray charge given back for no repair",
        {"2d", "9c"},
        (
            (
                CHANNEL,
                "UPDATE channel_order SET instruction_id = substr(instruction_id, 1, 28) || 'zz'"
                " WHERE instruction_id LIKE 'rpr_%'",
            ),
        ),
    ),
)
