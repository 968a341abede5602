"""Books recomputed by somebody who holds a run's ledger, event log and updates, and trusts none of them."""
