"""Smallest Flower app that reads this project's run-config."""
