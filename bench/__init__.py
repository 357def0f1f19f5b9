"""Benchmarks: medians of interleaved runs on one machine, never pass or fail."""
