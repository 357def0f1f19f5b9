"""Messages between services: the buses that carry events, the relay that empties the outbox, consumers and timers."""
