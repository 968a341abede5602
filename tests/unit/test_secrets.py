"""One reader of secrets, and masks that neither touch what is no secret nor break JSON."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import hypergpu_fl
from hypergpu_fl.cli.render import Format, render
from hypergpu_fl.config import from_run_config, load, read_secrets, to_run_config
from hypergpu_fl.redaction import SECRETS, redact, redact_values, register

KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"


def test_a_secret_is_read_in_one_place_only() -> None:
    package = Path(hypergpu_fl.__file__).parent
    readers = []
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            keys: list[ast.expr] = []
            if isinstance(node, ast.Subscript):
                keys = [node.slice]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("environ.get", "getenv", "environ.pop")
            ):
                keys = node.args[:1]
            readers += [file.name for key in keys if isinstance(key, ast.Constant) and key.value in SECRETS]
    assert readers == []


def test_secrets_come_from_the_environment_over_dotenv_and_an_empty_one_is_none(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(f"\ufeffHYPERGPU_NODE_KEY={KEY}\r\nHYPERGPU_COORDINATOR_KEY=from-file\r\n".encode())
    environ = {
        "HYPERGPU_NODE_KEY": "",
        "HYPERGPU_COORDINATOR_KEY": "from-environment",
        "HYPERGPU_KEYSTORE_PASSWORD": "",
    }
    secrets = read_secrets(environ, tmp_path / ".env")
    assert secrets.node_key is not None and secrets.node_key.get_secret_value() == KEY
    assert secrets.coordinator_key is not None
    assert secrets.coordinator_key.get_secret_value() == "from-environment"
    assert secrets.keystore_password is None
    assert KEY not in repr(secrets) + redact(f"{KEY}")


@pytest.mark.parametrize("password", ["data", "accuracy", "1234", "null", "true", '"', "\\n", "run", "0.93"])
def test_whatever_a_password_is_json_stays_whole_and_other_values_stay_what_they_are(
    password: str, capsys: pytest.CaptureFixture[str]
) -> None:
    register(password)
    content = {
        "accuracy": 0.9312341234,
        "examples": 1234,
        "dataset": "dataset-1234x",
        "run": "runs",
        "of": None,
        "ok": True,
        "said": ["a\nb \\n", '"quoted"'],
    }
    render(content, Format.JSON)
    read = json.loads(capsys.readouterr().out)
    assert read.keys() == content.keys()
    assert [read[name] for name in ("accuracy", "examples", "dataset", "run", "of", "ok")] == [
        content[name] for name in ("accuracy", "examples", "dataset", "run", "of", "ok")
    ]


@pytest.mark.parametrize("secret", ["hunter2", KEY, "correct horse battery", "pass#word!"])
def test_a_secret_is_masked_wherever_it_stands_as_one(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    register(secret)
    for text in (secret, f"password={secret}", f"'{secret}'", f"({secret})", f"said {secret}.", f"{secret},x"):
        assert secret not in redact(text), text
    render({"a": secret, "b": [f"x {secret}"], "c": {"d": {"e": secret}}}, Format.JSON)
    assert json.loads(capsys.readouterr().out) == {"a": "***", "b": ["x ***"], "c": {"d": {"e": "***"}}}


def test_a_key_as_a_number_is_masked_and_budgets_are_not() -> None:
    register(KEY)
    assert redact_values({"key": int(KEY, 16), "budget": 10**30}) == {"key": "***", "budget": 10**30}


@pytest.mark.parametrize(
    "path", ["/data/site0123456789abcdef/images", "/v2/abcdEFGH1234abcdEFGH1234", "C:/token=abc/d", "/u@h/x"]
)
def test_a_path_that_looks_like_a_key_is_no_credential(path: str) -> None:
    config = load(overrides={"training.data_root": path}).config
    assert config.training.data_root.endswith(path.removeprefix("C:/"))
    assert from_run_config(to_run_config(config)) == config
