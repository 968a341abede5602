"""Chains, npm tools and an outbox at hand for the tests of this folder."""

from desk import contract, desk, mining_desk
from npm_tools import anvil, contracts, forge, quick_anvil

__all__ = ["anvil", "contract", "contracts", "desk", "forge", "mining_desk", "quick_anvil"]
