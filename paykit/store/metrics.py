"""What the store measures. Label ``shard`` is "<mode>/<shard>"."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BATCH_SIZE = Histogram(
    "paymesh_store_batch_size", "Commands per batch", ["shard"], buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
BATCH_SECONDS = Histogram(
    "paymesh_store_batch_seconds",
    "Time from the first statement to the commit of a batch, retries included",
    ["shard"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
)
COMMANDS = Counter("paymesh_store_commands", "Commands by outcome", ["command", "outcome"])
RETRIES = Counter("paymesh_store_retries", "Whole batches run again", ["shard", "cause"])
SPLITS = Counter("paymesh_store_splits", "Batches run again command by command", ["shard"])
SETTLED = Counter("paymesh_store_commits_settled", "Commits whose answer was lost, by outcome", ["shard", "outcome"])
WAITING = Gauge("paymesh_store_waiting", "Commands waiting", ["shard"])
