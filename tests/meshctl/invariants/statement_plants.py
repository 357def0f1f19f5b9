"""Violations of group 10: orders, and the lines of statements that settle them."""

from __future__ import annotations

from tests.meshctl.invariants.plants import RECON, Plant

_AN_ORDER = "(SELECT min(id) FROM recon_order WHERE settlement = 'AGREED')"

STATEMENTS = (
    Plant(
        "an order that agrees with no line",
        {"10a", "10b"},
        ((RECON, "UPDATE recon_order SET statement_line_id = NULL WHERE id = " + _AN_ORDER),),  # a line is left over
    ),
    Plant(
        "an order that agrees with another amount",
        {"10a"},
        ((RECON, "UPDATE statement_line SET amount_minor = amount_minor + 1 WHERE match_ref = " + _AN_ORDER),),
    ),
    Plant(
        "a line that differs without a break",
        {"10b"},
        ((RECON, "UPDATE statement_line SET break_id = NULL WHERE difference <> ''"),),
    ),
)
