"""Decisions of a federated round as pure functions, and the Flower Strategy that calls them."""
