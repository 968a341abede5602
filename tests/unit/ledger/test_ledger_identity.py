"""Signatures of contributions against eth-account, and refusals of everything altered."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.errors import LedgerError
from hypergpu_fl.ledger.contribution import Contribution
from hypergpu_fl.ledger.identity import NodeKey, derive_simulated_key, load_keystore, recover, sign_contribution

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

word = st.binary(min_size=32, max_size=32)
contributions = st.builds(
    Contribution, session=word, round=st.integers(0, 2**64 - 1), base_model=word, update_hash=word,
    examples=st.integers(0, 2**64 - 1), metrics_hash=word,
)  # fmt: skip
secrets = st.integers(1, ORDER - 1).map(lambda value: value.to_bytes(32, "big"))


def typed(c: Contribution) -> object:
    fields = [
        ("session", "bytes32"), ("round", "uint64"), ("baseModel", "bytes32"), ("updateHash", "bytes32"),
        ("examples", "uint64"), ("metricsHash", "bytes32"),
    ]  # fmt: skip
    values = (c.session, c.round, c.base_model, c.update_hash, c.examples, c.metrics_hash)
    return encode_typed_data(
        full_message={
            "types": {
                "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "version", "type": "string"}],
                "Contribution": [{"name": name, "type": kind} for name, kind in fields],
            },
            "domain": {"name": "HyperGPU", "version": "1"},
            "primaryType": "Contribution",
            "message": {name: value for (name, _), value in zip(fields, values, strict=True)},
        }
    )


@given(secrets, contributions)
def test_signatures_are_eth_accounts_own(secret: bytes, contribution: Contribution) -> None:
    key, account = NodeKey.from_secret(secret), Account.from_key(secret)
    signature = sign_contribution(key, contribution)
    assert key.address == account.address
    assert signature == account.sign_message(typed(contribution)).signature
    assert recover(contribution, signature) == key.address


@given(contributions, st.sampled_from(["session", "round", "base_model", "update_hash", "examples", "metrics_hash"]))
def test_a_signature_fits_nothing_else(contribution: Contribution, name: str) -> None:
    key = derive_simulated_key(0, 0)
    signature = sign_contribution(key, contribution)
    value = getattr(contribution, name)
    changed = bytes([value[0] ^ 1]) + value[1:] if isinstance(value, bytes) else value ^ 1
    with suppress(LedgerError):  # no key may fit at all
        assert recover(replace(contribution, **{name: changed}), signature) != key.address


@given(contributions)
def test_the_second_valid_form_of_a_signature_is_refused(contribution: Contribution) -> None:
    signature = sign_contribution(derive_simulated_key(0, 0), contribution)
    s = ORDER - int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])
    with pytest.raises(LedgerError, match="malformed"):
        recover(contribution, twin)


@given(contributions, st.binary(max_size=70))
def test_bytes_that_are_no_signature_are_refused_and_never_crash(contribution: Contribution, raw: bytes) -> None:
    if len(raw) != 65:
        with pytest.raises(LedgerError, match="malformed"):
            recover(contribution, raw)


def test_simulated_keys_are_marked_and_differ_by_seed_and_node() -> None:
    keys = {derive_simulated_key(seed, node).address for seed in range(3) for node in range(3)}
    assert len(keys) == 9 and derive_simulated_key(0, 0).simulated


def test_a_keystore_opens_with_its_password_only_and_no_error_shows_key_or_password(tmp_path: Path) -> None:
    secret, password = bytes(range(1, 33)), "correct horse"
    path = tmp_path / "node.json"
    path.write_text(json.dumps(Account.encrypt(secret, password, kdf="pbkdf2", iterations=2)))
    key = load_keystore(path, password)
    assert key.address == Account.from_key(secret).address and not key.simulated
    assert secret.hex() not in repr(key)
    with pytest.raises(LedgerError, match="does not open") as wrong:
        load_keystore(path, "battery staple")
    assert "battery" not in str(wrong.value) and wrong.value.__cause__ is None
    with pytest.raises(LedgerError, match="cannot be read"):
        load_keystore(tmp_path / "missing.json", password)
    with pytest.raises(LedgerError, match="not 32 bytes"):
        NodeKey.from_secret(b"\0" * 32)
