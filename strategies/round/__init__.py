"""The round as a pure machine: ``step(state, event) -> (state, commands)``. No Flower, no torch, no model vector."""
