"""Violations of groups 1 and 2: the ledger, the provider's book and refunds."""

from __future__ import annotations

from tests.meshctl.invariants.plants import BOOK, PAY, TRADE, Plant

_A_JOURNAL_THROUGH_CLEARING = """(SELECT e.journal_id FROM entry e JOIN account a ON a.id = e.account_id
    WHERE a.kind = 'CLEARING' ORDER BY e.id LIMIT 1)"""
_ANOTHER_PAYMENT = "(SELECT max(id) FROM payment WHERE operation = 'RECHARGE')"
LEDGER = (
    Plant(
        "an entry of another journal",
        {"1a", "1q"},
        ((PAY, "UPDATE entry SET journal_id = (SELECT max(id) FROM journal) WHERE id = (SELECT min(id) FROM entry)"),),
    ),
    Plant("a balance", {"1b"}, ((PAY, "UPDATE account SET balance_minor = balance_minor + 1 WHERE kind = 'USER'"),)),
    Plant(
        "a running balance",
        {"1c"},
        ((PAY, "UPDATE entry SET balance_after_minor = 7 WHERE id = (SELECT min(id) FROM entry)"),),
    ),
    Plant(
        "an entry on another slot",
        {"1a", "1d", "1p", "1q", "7b"},
        ((PAY, "UPDATE entry SET slot = slot + 1 WHERE id = (SELECT min(id) FROM entry)"),),
    ),
    Plant(
        "more held than there is",
        {"1e", "1i"},
        ((PAY, "UPDATE account SET held_minor = balance_minor + 1 WHERE kind = 'USER'"),),
    ),
    Plant("a customer without a floor", {"1e"}, ((PAY, "UPDATE account SET floor_minor = NULL WHERE kind = 'USER'"),)),
    Plant(
        "a transit that arrives with less",
        {"1f"},
        (
            (
                "pay_core_s1_live.db",
                "UPDATE journal SET bookings = replace(bookings, ',1000,', ',999,') WHERE bookings LIKE '%,1000,%'",
            ),
        ),
    ),
    Plant(
        "a transit that never arrives",
        {"1f"},
        tuple(
            ("pay_core_s1_shadow.db", f) for f in ("DELETE FROM journal", "DELETE FROM entry", "DELETE FROM account")
        ),
    ),
    Plant(
        "money left in clearing",
        {"1g", "5g"},
        (
            (PAY, "UPDATE journal SET payment_id = " + _ANOTHER_PAYMENT + " WHERE id = " + _A_JOURNAL_THROUGH_CLEARING),
            (
                PAY,
                "UPDATE entry SET payment_id = "
                + _ANOTHER_PAYMENT
                + " WHERE journal_id = "
                + _A_JOURNAL_THROUGH_CLEARING,
            ),
        ),
    ),
    Plant(
        "the mirror of another channel",
        {"1h", "9d"},
        ((PAY, "UPDATE account SET account_key = replace(account_key, '_card', '_gift') WHERE kind = 'EXTERNAL'"),),
    ),
)

PROVIDER = (
    Plant(
        "charged twice",
        {"1h", "2a"},
        (
            (
                BOOK,
                """INSERT INTO entry SELECT 999, 'sandbox_bank_live', livemode, kind, reference, idempotency_key,
                body_hash, provider_reference, amount_minor, currency, token, original_reference, outcome, failure_code,
                settle_at_ms, created_at_ms, moved_minor, is_final, merchant, said_first,
                behaviour, times, copy_no FROM entry
                WHERE kind = 'charge' AND livemode AND outcome = 'succeeded' LIMIT 1""",
            ),
        ),
    ),
    Plant(
        "another amount at the provider",
        {"1h", "2b", "2c"},
        ((BOOK, "UPDATE entry SET amount_minor = amount_minor + 1 WHERE kind = 'payout'"),),
    ),
    Plant(
        "more moved than was asked for",
        {"1h", "2c"},
        ((BOOK, "UPDATE entry SET moved_minor = amount_minor + 1 WHERE kind = 'payout'"),),
    ),
    Plant(
        "an order that only the provider knows",
        {"2b"},
        ((BOOK, "UPDATE entry SET reference = 'chn_of_nobody' WHERE outcome = 'failed'"),),
    ),
    Plant(
        "succeeded here, failed there",
        {"1h", "2c"},
        ((BOOK, "UPDATE entry SET outcome = 'failed' WHERE kind = 'payout'"),),
    ),
    Plant(
        "failed here, succeeded there",
        {"1h", "2c"},
        ((BOOK, "UPDATE entry SET outcome = 'succeeded' WHERE outcome = 'failed'"),),
    ),
    Plant(
        "an order of another channel than the instruction's",
        {"2d"},
        ((PAY, "UPDATE instruction SET channel = 'sandbox_gift' WHERE channel = 'sandbox_bank'"),),
    ),
    Plant(
        "more refunded than the refunds",
        {"2e"},
        ((PAY, "UPDATE payment SET refunded_minor = refunded_minor + 1 WHERE refunded_minor > 0"),),
    ),
    Plant(
        "more given back of an instruction",
        {"2e"},
        ((PAY, "UPDATE instruction SET refunded_minor = refunded_minor + 1 WHERE refunded_minor > 0"),),
    ),
    Plant(
        "given back of a charge that failed",
        {"1h", "2f", "2j"},
        (
            (
                BOOK,
                "UPDATE entry SET original_reference = (SELECT reference FROM entry WHERE outcome = 'failed')"
                " WHERE kind = 'refund'",
            ),
        ),
    ),
    Plant(
        "more left to refund",
        {"2g", "5n"},
        ((TRADE, "UPDATE trade SET refundable_minor = refundable_minor + 1 WHERE refunded_minor > 0"),),
    ),
)
