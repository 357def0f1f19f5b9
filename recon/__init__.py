"""Real-time reconciliation: compares what the services say happened, and opens a break where they do not agree."""
