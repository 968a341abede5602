"""What is known of nodes: one column a quantity, link estimates, priors and health."""

from strategies.fleet.columns import Bools, Fleet, Floats, Ints

__all__ = ["Bools", "Fleet", "Floats", "Ints"]
