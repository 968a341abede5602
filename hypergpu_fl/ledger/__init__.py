"""Contribution record, Merkle tree, rewards, run database, exported bundle and its verification."""
