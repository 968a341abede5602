"""Chains and npm tools for the tests of this folder."""

from npm_tools import anvil, contracts, forge, quick_anvil

__all__ = ["anvil", "contracts", "forge", "quick_anvil"]
