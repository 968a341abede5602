"""Replies in the order they arrive: one interface, two clocks."""

from strategies.flight import Arrivals, Flight, Passage, Terms, VirtualLinks, payload_bytes
from strategies.virtual_arrivals import VirtualArrivals
from strategies.wall_arrivals import WallArrivals

__all__ = [
    "Arrivals",
    "Flight",
    "Passage",
    "Terms",
    "VirtualArrivals",
    "VirtualLinks",
    "WallArrivals",
    "payload_bytes",
]
