"""The foundation all services stand on. It knows no payment noun and imports no service."""
