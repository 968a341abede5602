"""Contract client, signer, outbox and embedded EVM. This package knows bytes, not the ledger."""
