"""What the messages of this process did, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

published = Counter("paymesh_bus_published_total", "Messages the bus took", ["mode"])
publish_failed = Counter("paymesh_bus_publish_failed_total", "Messages the bus did not take", ["mode"])
delivered = Counter("paymesh_bus_delivered_total", "Messages a consumer took", ["consumer", "mode"])
redelivered = Counter("paymesh_bus_redelivered_total", "Deliveries that failed and are repeated", ["consumer", "mode"])
dead_lettered = Counter("paymesh_dead_lettered_total", "Messages given up with a ticket", ["consumer", "mode"])
resubscribed = Counter("paymesh_bus_resubscribed_total", "Consumers set up again by the watchdog", ["consumer", "mode"])
calls_done = Counter("paymesh_outbox_calls_total", "Durable calls by outcome", ["method", "outcome"])
outbox_pending = Gauge("paymesh_outbox_pending", "Outbox rows a relay holds and has not yet acknowledged", ["service"])
timers_fired = Counter("paymesh_timers_fired_total", "Timer rows by outcome", ["timer", "outcome"])
