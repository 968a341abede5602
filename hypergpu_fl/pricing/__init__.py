"""What closed rounds were worth, and what is kept of them so that a stranger can recompute it."""

from hypergpu_fl.pricing.pricer import AUDITED, Pricer, Scoring, scoring_of, versioned
from hypergpu_fl.pricing.rounds import PricedRounds

__all__ = ["AUDITED", "PricedRounds", "Pricer", "Scoring", "scoring_of", "versioned"]
