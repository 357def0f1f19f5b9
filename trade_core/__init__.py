"""The transaction core: trade types, orders, the attempts to pay them, and how they relate."""
