"""``hypergpu node`` and ``hypergpu nodes``."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest

from hypergpu_fl.children import free_port
from hypergpu_fl.cli import invoke
from hypergpu_fl.cli.connections import CONNECTION, note_connection
from hypergpu_fl.cli.node import with_link
from hypergpu_fl.errors import UsageError
from hypergpu_fl.ledger.database import connect
from hypergpu_fl.network import registry
from hypergpu_fl.network.registry import NodeRecord, NodeStatus


def test_one_command_makes_certificates_that_openssl_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["node", "certs", "link.example", "--out", str(tmp_path), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["to every node"] == str(tmp_path / "ca.crt")
    verified = ["openssl", "verify", "-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "server.pem")]
    assert subprocess.run(verified, capture_output=True, check=False).returncode == 0


def test_one_command_makes_the_keys_of_several_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["node", "keys", "a", "b", "--out", str(tmp_path), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [Path(row["public"]).name for row in rows] == ["a.pub", "b.pub"]
    assert all(Path(row["private"]).is_file() for row in rows)
    assert invoke(["node", "keys", "a", "--out", str(tmp_path)]) == 2
    assert "never overwritten" in capsys.readouterr().err


def test_registering_needs_a_key_and_a_superlink(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    note_connection("away", f"127.0.0.1:{free_port()}", tmp_path / "ca.crt")
    assert invoke(["node", "keys", "a", "--out", str(tmp_path)]) == 0
    assert invoke(["node", "certs", "localhost", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    for key, superlink, code, said in (
        ("none.pub", "away", 2, "there is no public key"),
        ("a", "away", 2, f"remedy: give {tmp_path / 'a.pub'}"),
        ("ca.crt", "away", 2, "holds no public key"),
        ("a.pub", "awai", 2, "did you mean 'away'?"),
        ("a.pub", "away", 1, "was not registered"),
    ):
        assert invoke(["node", "register", str(tmp_path / key), "--superlink", superlink]) == code
        err = capsys.readouterr().err
        assert said in err and "x1b" not in err


def test_registering_goes_to_the_connection_that_the_server_makes_unless_another_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    key = str(tmp_path / "a.pub")
    note_connection("away", f"127.0.0.1:{free_port()}", tmp_path / "ca.crt")
    assert invoke(["node", "register", key]) == 2
    err = capsys.readouterr().err
    assert f"no connection {CONNECTION!r}" in err and "use one of: away;" in err
    note_connection(CONNECTION, f"127.0.0.1:{free_port()}", tmp_path / "ca.crt")
    assert invoke(["node", "register", key]) == 2
    assert "there is no public key" in capsys.readouterr().err


def test_the_registry_is_shown_in_the_units_that_people_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    runs = ["--runs", str(tmp_path / "runs"), "--format", "json"]
    assert invoke(["nodes", "mine", *runs]) == 2
    assert "no database yet" in capsys.readouterr().err
    engine = connect(folder / "run.db")
    with engine.connect():
        pass
    assert invoke(["nodes", "mine", *runs]) == 0
    assert json.loads(capsys.readouterr().out) == []
    registry.metadata.create_all(engine)
    record = NodeRecord(
        "node-0",
        "1",
        0.0,
        device={"gpu": "H100"},
        status=NodeStatus.ONLINE,
        last_seen_s=1e9,
        tries=4,
        successes=3,
        rtt_s=0.2,
        uplink_bps=5e6,
    )
    with engine.begin() as connection:
        connection.execute(registry.insert_(registry.nodes), [{**record.__dict__, "device": {"gpu": "H100"}}])
    engine.dispose()
    assert invoke(["nodes", "mine", *runs]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["rtt_ms"], row["up_mbps"], row["success_rate"], row["device"]) == (200.0, 5.0, 0.75, "H100")
    assert row["last_seen"] == "2001-09-09T01:46:40+00:00"
    (folder / "report.json").write_text(json.dumps({"unfit": {"7": "node-1: no file site-1.csv; name one"}}))
    assert invoke(["nodes", "mine", *runs[:2]]) == 0
    assert "could not take part: node-1: no file site-1.csv; name one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "config"),
    [
        (
            ["--superlink", "a:1", "--root-certificates=ca", "--node-config", "x=1"],
            'x=1 superlink="a:1" root-certificates="ca"',
        ),
        (["--superlink", "a:1", '--node-config=superlink="b"'], 'superlink="b"'),
        (["--superlink=a:1"], 'superlink="a:1"'),
    ],
)
def test_a_node_probes_the_superlink_that_it_is_started_for(words: list[str], config: str) -> None:
    given = with_link(words)
    at = next(i for i, word in enumerate(given) if word.startswith("--node-config"))
    assert (given[at].partition("=")[2] or given[at + 1]) == config


def test_options_without_a_superlink_stay_as_they_are() -> None:
    assert with_link(["--help"]) == ["--help"] and with_link(["--node-config"]) == ["--node-config"]


def test_the_servers_command_notes_its_connection_once_and_changes_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text("# mine\n")
    for _ in range(2):
        note_connection("deployed", "127.0.0.1:8000", tmp_path / "ca.crt")
    text = (tmp_path / "config.toml").read_text()
    assert text.startswith("# mine\n") and text.count("[superlink.deployed]") == 1
    with pytest.raises(UsageError, match="has a connection 'deployed'"):
        note_connection("deployed", "127.0.0.1:8001", tmp_path / "ca.crt")


def test_a_server_without_its_certificates_says_how_to_make_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["server", "start", "--certs", str(tmp_path)]) == 2
    assert "hypergpu node certs" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["node", "start", "--superlink", "127.0.0.1:1"], ["server", "start"]])
def test_what_is_started_twice_on_a_machine_is_refused_by_its_port(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["node", "certs", "link.example"]) == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert invoke([*command, "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert f"error: port {port} cannot be used: Address already in use" in err
    assert "--port" in err.partition("remedy: ")[2]
