"""Where a node's key comes from, and that neither it nor its password is shown."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_account import Account
from flwr.app import ConfigRecord, Context, RecordDict

from hypergpu_fl.config import Config
from hypergpu_fl.errors import HyperGPUError
from hypergpu_fl.node.client_app import _key, _opened
from hypergpu_fl.redaction import redact

SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
DEPLOYED = Config.model_validate({"network": {"enable_simulation": False}})


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("HYPERGPU_NODE_KEY", raising=False)
    _opened.cache_clear()
    yield
    _opened.cache_clear()


def node(**node_config: str) -> Context:
    return Context(1, 2, {"partition-id": 0, **node_config}, RecordDict({"node": ConfigRecord()}), {})


def test_a_keystore_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = tmp_path / "node.json", b"\x21" * 32
    file.write_text(json.dumps(Account.encrypt(other, "known-password-3", kdf="pbkdf2", iterations=2)))
    monkeypatch.setenv("HYPERGPU_KEYSTORE_PASSWORD", "known-password-3")
    monkeypatch.setenv("HYPERGPU_NODE_KEY", "0x" + SECRET)
    assert _key(DEPLOYED, node(keystore=str(file))).address == Account.from_key(other).address
    from_environment = _key(DEPLOYED, node())
    assert from_environment.address == Account.from_key(SECRET).address and not from_environment.simulated
    assert SECRET not in redact(f"key {SECRET}") and _key(Config(), node()).simulated


@pytest.mark.parametrize("text", [SECRET + "00", "f" * 64, "zz" + SECRET, ""])
def test_a_key_that_is_none_is_refused_without_being_shown(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERGPU_NODE_KEY", text)
    with pytest.raises(HyperGPUError) as refused:
        _key(DEPLOYED, node())
    told = "".join(traceback.format_exception(refused.value))
    assert SECRET not in told and "f" * 64 not in told
