"""Violations of groups 3 to 8: states, liveness, answers, messages, placement and audit."""

from __future__ import annotations

from tests.meshctl.invariants.plants import BOOK, CHANNEL, HOUR_MS, PAY, RECON, TRADE, Plant

_A_TRADE = "(SELECT min(id) FROM trade WHERE state = 'PAID')"

STATES = (
    Plant(
        "a terminal state left and entered again",
        {"3a"},
        (
            (
                TRADE,
                """UPDATE command_record SET changes = substr(changes, 1, length(changes) - 1)
                || ',["' || """
                + _A_TRADE
                + """ || '","trade","","PAID","CREATED",""]'
                || ',["' || """
                + _A_TRADE
                + """ || '","trade","","CREATED","PAID",""]]'
                WHERE id = (SELECT min(id) FROM command_record WHERE changes <> '[]')""",
            ),
        ),
    ),
    Plant(
        "a change that is not on record",
        {"3b"},
        (
            (
                TRADE,
                """UPDATE command_record SET changes = replace(changes, '"PAYING","EFFECTIVE"', '"",""')
            WHERE changes LIKE '%EFFECTIVE%'""",
            ),
        ),
    ),
    Plant("a version below 1", {"3c"}, ((TRADE, "UPDATE trade SET version = 0 WHERE id = " + _A_TRADE),)),
    Plant("a changed entry", {"3c"}, ((PAY, "UPDATE entry SET version = 2 WHERE id = (SELECT min(id) FROM entry)"),)),
    Plant(
        "a failed payment that keeps its money",
        {"2e", "3d", "5i"},
        ((PAY, "UPDATE instruction SET reverses_id = NULL WHERE direction = 'REVERSE'"),),
    ),
    Plant(
        "a succeeded payment that undid a step",
        {"3d", "5c"},
        (
            (
                PAY,
                "UPDATE instruction SET direction = 'REVERSE' WHERE action = 'DISBURSE' AND payment_id = "
                "(SELECT min(id) FROM payment WHERE operation = 'TRANSFER' AND state = 'SUCCEEDED')",
            ),
        ),
    ),
)

LIVENESS = (
    Plant("an unpaid order that never expires", {"4a"}, later_ms=HOUR_MS),
    Plant("an order that hangs", {"4a", "4b", "4c"}, at_work=True, later_ms=HOUR_MS),
    Plant(
        "undone while unknown",
        {"2e", "4d", "5c"},
        (
            (
                PAY,
                "UPDATE instruction SET direction = 'REVERSE', reverses_id = (SELECT id FROM instruction"
                " WHERE state = 'PROCESSING') WHERE state = 'INIT'",
            ),
        ),
        at_work=True,
        later_ms=60_000,
    ),
    Plant(
        "failed while unknown",
        {"2d", "3b", "4d"},
        ((PAY, "UPDATE instruction SET state = 'FAILED' WHERE state = 'PROCESSING'"),),
        at_work=True,
        later_ms=60_000,
    ),
)

ANSWERS = (
    Plant(
        "paid by no payment",
        {"5a"},
        ((TRADE, "UPDATE pay_attempt SET payment_id = '' WHERE trade_id = " + _A_TRADE),),
    ),
    Plant(
        "a payment for an attempt that is not there",
        {"5b"},
        ((PAY, "UPDATE payment SET source_id = 'att_' || substr(id, 5) WHERE state = 'FAILED'"),),
    ),
    Plant(
        "a payment of another amount than its steps",
        {"5c"},
        ((PAY, "UPDATE payment SET amount_minor = amount_minor + 1 WHERE state = 'FAILED'"),),
    ),
    Plant(
        "a step that is not booked",
        {"5d"},
        (
            (
                PAY,
                """UPDATE journal SET bookings = '[]'
                WHERE bookings NOT LIKE '%SENT%' AND bookings NOT LIKE '%RECEIVED%'""",
            ),
        ),
    ),
    Plant(
        "bookings that cannot be read",
        {"5d"},
        (
            (
                PAY,
                """UPDATE journal SET bookings = '['
                WHERE id = (SELECT min(id) FROM journal WHERE bookings NOT LIKE '%SENT%')""",
            ),
        ),
    ),
    Plant(
        "an attempt beside the current one",
        {"5e"},
        ((TRADE, "UPDATE trade SET open_attempt_count = 2 WHERE state = 'PAYING'"),),
        at_work=True,
    ),
    Plant(
        "a first result that cannot be read",
        {"5f"},
        ((TRADE, "UPDATE command_record SET result = x'c1' WHERE name = 'CreateTrade'"),),
    ),
)

MESSAGES = (
    Plant(
        "a message that waits",
        {"6a"},
        ((TRADE, "UPDATE outbox SET acked_at_ms = NULL WHERE id = (SELECT min(id) FROM outbox)"),),
    ),
    Plant(
        "an order for another instruction",
        {"2d", "6b"},
        ((CHANNEL, "UPDATE channel_order SET instruction_id = 'ins_' || substr(id, 5) WHERE kind = 'PAYOUT'"),),
    ),
    Plant(
        "two payments for one attempt",
        {"5b", "6c"},
        (
            (
                PAY,
                "UPDATE payment SET source_id = (SELECT max(source_id) FROM payment WHERE operation = 'WITHDRAW')"
                " WHERE state = 'FAILED'",
            ),
        ),
    ),
    Plant(
        "two orders with one reference",
        {"6d"},
        (
            (
                CHANNEL,
                "UPDATE channel_order SET provider_reference = (SELECT max(provider_reference) FROM channel_order"
                " WHERE channel = 'sandbox_card') WHERE channel = 'sandbox_card'",
            ),
        ),
    ),
    Plant("a movement that recon never heard of", {"6e"}, ((RECON, "DELETE FROM recon_payment"),)),
    Plant("a match that nobody asks about", {"6g"}, ((RECON, "UPDATE recon_payment SET pair_counts = '9.9.9.9'"),)),
    Plant("a channel order that recon never heard of", {"6h", "10b"}, ((RECON, "DELETE FROM recon_order"),)),
    Plant(
        "a channel order that recon has otherwise",
        {"6h", "10a"},
        ((RECON, "UPDATE recon_order SET amount_minor = amount_minor + 1"),),
    ),
    Plant(
        "a dead letter",
        {"6f"},
        (
            (
                RECON,
                "INSERT INTO dead_letter (id, slot, version, consumer, destination, message_id, biz_id, context, body,"
                " state, error, created_at_ms) SELECT 'ded_' || substr(id, 5), slot, 1, 'matcher', 'trade.trade_paid',"
                " 'msg', '', x'', x'', 'OPEN', 'KeyError', 1 FROM recon_payment LIMIT 1",
            ),
        ),
    ),
)

PLACEMENT = (
    Plant(
        "a row of another shard's slot",
        {"7a"},
        ((PAY, "UPDATE command_record SET slot = slot + 512 WHERE id NOT LIKE 'cmd_%'"),),
    ),
    Plant("an id of another slot", {"7b"}, ((PAY, "UPDATE outbox SET slot = slot + 1"),)),
    Plant("a database of another shard", {"7c"}, ((PAY, "UPDATE shard_epoch SET shard = 's9'"),)),
    Plant("a database of another epoch", {"7c"}, ((RECON, "UPDATE shard_epoch SET epoch = 9"),)),
    Plant("a database that does not say what it is", {"7c"}, (("trade_core_s1_shadow.db", "DELETE FROM shard_epoch"),)),
    Plant(
        "a business id of live in shadow",
        {"7d"},
        (
            (
                "trade_core_s0_shadow.db",
                "UPDATE command_record SET biz_id = 'biz_of_both' WHERE name = 'CreateTrade'",
            ),
            (TRADE, "UPDATE command_record SET biz_id = 'biz_of_both' WHERE name = 'CreateTrade'"),
        ),
    ),
    Plant(
        "a live order with a shadow account",
        {"1h", "2j", "7e"},
        ((BOOK, "UPDATE entry SET account = 'sandbox_card_shadow' WHERE livemode AND kind = 'refund'"),),
    ),
    Plant(
        "a live charge that is shadow at the provider",
        {"1h", "2c", "7e"},
        ((BOOK, "UPDATE entry SET livemode = 0 WHERE kind = 'payout'"),),
    ),
)

AUDIT = (
    Plant(
        "a journal that no audit row names",
        {"8a"},
        ((PAY, "UPDATE command_record SET changes = replace(changes, 'jnl_', 'jnx_') WHERE changes LIKE '%jnl_%'"),),
    ),
    Plant(
        "an audit row that cannot be read",
        {"8a"},
        (
            (
                RECON,
                "UPDATE command_record SET changes = '['"
                " WHERE id = (SELECT min(id) FROM command_record WHERE changes = '[]')",
            ),
        ),
    ),
    Plant("an override that nobody has set", {"8e"}, ((CHANNEL, "UPDATE channel_override SET set_by = ''"),)),
    Plant(
        "an override that never ends",
        {"8e"},
        ((CHANNEL, "UPDATE channel_override SET expire_at_ms = NULL WHERE mode = 'FORCED_OPEN'"),),
    ),
    Plant("an audit row without a caller", {"8b"}, ((CHANNEL, "UPDATE command_record SET caller = ''"),)),
    Plant(
        "a card number in a column", {"8c"}, ((TRADE, "UPDATE trade SET note = 'card 4111 1111 1111 1111, please'"),)
    ),
    Plant(
        "a card number in a message",
        {"8c"},
        # Field 1 of a protobuf message, 16 bytes, and field 6 after it.
        ((PAY, "UPDATE outbox SET body = x'0a1034313131313131313131313131313131' || x'3201'"),),
    ),
)
