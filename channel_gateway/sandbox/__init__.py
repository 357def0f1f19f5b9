"""A payment provider to develop and test against: a process of its own, with its own book, over real HTTP."""
