"""Violations of what is kept, closed, counted and divided: holds, escrow, books, limits, captures, coupons, parts."""

from __future__ import annotations

from tests.meshctl.invariants.plants import BOOK, PAY, TRADE, Plant

KEEPING = (
    Plant("less held than holds keep", {"1i"}, ((PAY, "UPDATE account SET held_minor = 1 WHERE held_minor > 0"),)),
    Plant(
        "a hold that gave more than was collected",
        {"1j"},
        (
            (
                PAY,
                "UPDATE hold SET captured_minor = captured_minor + 1, released_minor = released_minor - 1"
                " WHERE released_minor > 0",
            ),
        ),
    ),
    Plant(
        "a hold that is over and keeps something",
        {"1j"},
        ((PAY, "UPDATE hold SET released_minor = released_minor - 1 WHERE released_minor > 0"),),
    ),
    Plant(
        "escrow that nobody is owed",
        {"1k"},
        ((PAY, "UPDATE payment SET plan = NULL WHERE settlement_mode = 'ESCROW' AND state = 'AUTHORIZED'"),),
    ),
    Plant(
        "a coupon that nobody bears",
        {"1l", "1q"},
        ((PAY, "UPDATE account SET kind = 'COUPON' WHERE kind = 'MARKETING'"),),
    ),
    Plant(
        "points from nowhere",
        {"1b", "1m"},
        ((PAY, "UPDATE account SET balance_minor = balance_minor + 1 WHERE kind = 'POINTS'"),),
    ),
    Plant(
        "suspense that no case explains",
        {"1n"},
        ((PAY, "UPDATE payment_case SET amount_minor = 1"),),
    ),
)

BOOKS = (
    Plant("a book that drains while it is open", {"1o"}, ((PAY, "UPDATE book SET closing_date = open_date"),)),
    Plant(
        "a journal dated before its payment",
        {"1p"},
        (
            (
                PAY,
                "UPDATE payment SET accounting_date = '2999-01-01'"
                " WHERE id = (SELECT min(id) FROM payment WHERE operation = 'RECHARGE')",
            ),
        ),
    ),
    Plant("a journal in a date that is closed without it", {"1p"}, ((PAY, "DELETE FROM closing"),)),
    Plant("a journal posted after the closing", {"1q"}, ((PAY, "UPDATE closing SET journal_count = 1"),)),
    Plant(
        "a snapshot of another balance",
        {"1q"},
        ((PAY, "UPDATE balance_snapshot SET balance_minor = balance_minor + 1"),),
    ),
    Plant(
        "totals that the entries do not say",
        {"1q"},
        ((PAY, """UPDATE closing SET totals = replace(totals, '["USER",1,', '["USER",9,')"""),),
    ),
)

COUNTED = (
    Plant(
        "an authorisation voided after it was captured",
        {"2a", "2b", "2h"},
        (
            (
                BOOK,
                """INSERT INTO entry SELECT 999, 'sandbox_bank_live', livemode, 'void', reference, idempotency_key,
                body_hash, provider_reference, amount_minor, currency, token, original_reference, outcome, failure_code,
                settle_at_ms, created_at_ms, moved_minor, is_final, merchant, said_first,
                behaviour, times, copy_no FROM entry WHERE kind = 'capture' LIMIT 1""",
            ),
        ),
    ),
    Plant(
        "a limit that counts what was not paid",
        {"2i"},
        ((PAY, "UPDATE limit_usage SET payment_count = payment_count + 1"),),
    ),
)

PAYMENTS = (
    Plant(
        "more captured than paid out",
        {"5a", "5h"},
        (
            (
                PAY,
                "UPDATE payment SET captured_minor = captured_minor + 1"
                " WHERE state = 'SUCCEEDED' AND settlement_mode = 'AUTHORIZE'",
            ),
        ),
    ),
    Plant(
        "a coupon that paid less than its payment says",
        {"5i"},
        ((PAY, "UPDATE coupon SET paid_minor = paid_minor - 1 WHERE state = 'USED'"),),
    ),
    Plant(
        "rules that nobody kept",
        {"5j"},
        ((PAY, "UPDATE payment SET rules_version = 7 WHERE id = (SELECT min(id) FROM payment)"),),
    ),
)

ORDERS = (
    Plant(
        "more parts paid than there are",
        {"5k"},
        ((TRADE, "UPDATE trade SET part_paid_count = part_paid_count + 1 WHERE part_paid_count > 0"),),
    ),
    Plant(
        "an order that its merged payment has forgotten",
        {"5l"},
        ((TRADE, "UPDATE trade SET group_trade_id = '' WHERE group_trade_id <> ''"),),
    ),
    Plant(
        "a second payment that is kept",
        {"2g", "5m"},
        ((TRADE, "UPDATE trade SET repairs_attempt_id = '' WHERE repairs_attempt_id <> ''"),),
    ),
    Plant(
        "a payee that sees another trade",
        {"5n"},
        (("trade_core_s1_live.db", "UPDATE merchant_trade SET refunded_minor = refunded_minor + 1"),),
    ),
)
