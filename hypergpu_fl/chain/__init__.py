"""Contract client, signer, outbox and embedded EVM. Knows bytes, not the ledger."""
