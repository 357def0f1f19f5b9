"""gRPC as every service uses it: one server, one kind of channel, one error mapping, call batching."""
