"""What imports came to, for Prometheus."""

from __future__ import annotations

from paykit import telemetry

IMPORTS = telemetry.counter("recon_statements_total", "Statement files imported", ("mode", "channel", "outcome"))
LINES = telemetry.counter("recon_statement_lines_total", "Statement lines stored", ("mode", "channel"))
