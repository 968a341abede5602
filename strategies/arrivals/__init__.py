"""Replies in the order they arrive: one interface, two clocks."""

from strategies.arrivals.flight import Arrivals, Flight, Passage, Terms, VirtualLinks
from strategies.arrivals.virtual import VirtualArrivals
from strategies.arrivals.wall import WallArrivals

__all__ = [
    "Arrivals",
    "Flight",
    "Passage",
    "Terms",
    "VirtualArrivals",
    "VirtualLinks",
    "WallArrivals",
]
