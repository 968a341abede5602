"""`hypergpu config`: check, show, schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from hypergpu_fl.config import Config, flatten
from hypergpu_fl.redaction import SECRETS

Command = Callable[..., tuple[int, str, str]]
KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"


def test_check_accepts_a_good_file_and_says_so(hypergpu: Command, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[training]\nrounds = 3\n")
    assert hypergpu("config", "check", "a.toml") == (0, "a.toml is valid\n", "")
    code, out, _ = hypergpu("config", "check", "a.toml", "--format", "json")
    assert (code, json.loads(out)) == (0, {"file": "a.toml", "valid": True})


def test_a_codec_that_there_is_not_is_found_before_a_run(hypergpu: Command, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[network]\ncodec = "top33"\ndownlink_codec = "zip"\n')
    for words in (["config", "check", "a.toml"], ["run", "--config", "a.toml"]):
        code, _, err = hypergpu(*words)
        assert code == 2 and "did you mean 'top32'?" in err and "network.downlink_codec is 'zip'" in err
    assert not (tmp_path / "runs").exists()


def test_show_tells_every_setting_with_its_origin_and_masks_secrets(
    hypergpu: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text('{"training": {"rounds": 3}}')
    (tmp_path / ".env").write_text(f"HYPERGPU_COORDINATOR_KEY={KEY}\nHYPERGPU_SYSTEM__DEVICE=cpu\n")
    monkeypatch.setenv("HYPERGPU_BLOCKCHAIN__RPC_URL", "https://user:hunter22@rpc.example/v2/abcdefgh12345678")
    code, out, err = hypergpu("config", "show", "-c", "a.json", "--set", "training.epochs=2", "--format", "json")
    assert (code, err) == (0, "")
    rows = {row["setting"]: (row["value"], row["origin"]) for row in json.loads(out)}
    assert set(rows) == {*flatten(Config().model_dump()), *SECRETS}
    assert rows["training.rounds"] == (3, "a.json")
    assert rows["training.epochs"] == (2, "--set")
    assert rows["training.seed"] == (0, "default")
    assert rows["system.device"] == ("cpu", "HYPERGPU_SYSTEM__DEVICE")
    assert rows["blockchain.rpc_url"] == ("https://***@rpc.example/v2/***", "HYPERGPU_BLOCKCHAIN__RPC_URL")
    assert rows["HYPERGPU_COORDINATOR_KEY"] == ("***", "environment")
    assert rows["HYPERGPU_KEYSTORE_PASSWORD"] == ("", "not set")
    code, table, _ = hypergpu("config", "show", "-c", "a.json")
    assert code == 0
    for text in (out, table):
        assert KEY not in text and "hunter22" not in text and "abcdefgh12345678" not in text


def test_schema_describes_every_field_and_forbids_others(hypergpu: Command) -> None:
    code, out, _ = hypergpu("config", "schema")
    assert code == 0
    schema = json.loads(out)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema == {"$schema": schema["$schema"]} | TypeAdapter(Config).json_schema()
    for section in ("Training", "Network", "Blockchain", "System"):
        assert schema["$defs"][section]["additionalProperties"] is False
