"""Recomputing a run's books from its ledger, event log and updates, without trusting any of them."""
