"""The server: its ServerApp, and what happens to a round that has closed."""
