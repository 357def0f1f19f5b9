"""Sharded storage: typed rows, commands, and the batch executor that alone commits."""
