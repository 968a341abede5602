"""Measurements against the peers, each in a module of its own, imported when it is asked for."""
