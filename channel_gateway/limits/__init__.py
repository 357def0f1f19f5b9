"""What bounds the calls to a channel, and to a channel for one merchant: small pure parts.

Times are passed in, as nanoseconds of one monotonic clock. ``schedule.Schedule`` puts them together for a lane.
"""
