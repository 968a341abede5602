"""Prices closed rounds, and keeps what later pricing and an independent recomputation need."""

from hypergpu_fl.pricing.pricer import Pricer, Scoring
from hypergpu_fl.pricing.rounds import PricedRounds

__all__ = ["PricedRounds", "Pricer", "Scoring"]
