"""Speaks to outside providers, off the main path: nobody else does, and nobody waits for one."""
