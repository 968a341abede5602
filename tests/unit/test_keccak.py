"""Keccak against eth_hash over pycryptodome, another implementation."""

from eth_hash.auto import keccak as oracle
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.keccak import keccak


@given(st.binary(max_size=600))
def test_hashes_are_another_implementations(data: bytes) -> None:
    assert keccak(data) == oracle(data)
