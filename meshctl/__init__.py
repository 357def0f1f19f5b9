"""The operator's command line. It composes the services: runs them, watches over them, and shows what they did."""
