"""Providers' statements: read from files of several formats, stored, and matched with the channel orders."""
