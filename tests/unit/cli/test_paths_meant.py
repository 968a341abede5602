"""A mistyped path is answered with the one that was meant, whatever command or setting takes it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from hypergpu_fl.cli.connections import CONNECTION, note_connection

Command = Callable[..., tuple[int, str, str]]

FILES = (
    "config.toml project.toml books.json keystore.json ca.crt links.csv secret.bin keys/ca.crt keys/site-a "
    "keys/site-a.pub receipts/one.json runs/demo/config.json app/pyproject.toml"
)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("config check confg.toml", "config.toml"),
        ("run --config confg.toml", "config.toml"),
        ("doctor --config confg.toml", "config.toml"),
        ("config show --set network.links_file=link.csv", "links.csv"),
        ("config show --set blockchain.keystore=keystor.json", "keystore.json"),
        ("node start --superlink h:1 --root-certificates ca.ctr", "ca.crt"),
        ("node start --superlink h:1 --root-certificates=ca.ctr", "ca.crt"),
        ("node start --insecure --auth-supernode-private-key kyes/site-a", "keys/site-a"),
        ("node start --insecure --superexec-auth-secret-file secret.bn", "secret.bin"),
        ("node start --insecure --trusted-entities cnfig.toml", "config.toml"),
        ("""node start --insecure --node-config 'partition-id=0 keystore="keystor.json"'""", "keystore.json"),
        ("node register keys/site-b.pub", "keys/site-a.pub"),
        ("node provision projct.toml", "project.toml"),
        ("server start --certs key", "keys/ca.crt"),
        ("server start --certs keys --superexec-auth-secret-file secret.bn", "secret.bin"),
        ("server superexec --root-certificates ca.ctr", "ca.crt"),
        ("keys show keystor.json", "keystore.json"),
        ("claim --key keystore.json --receipt receipts/two.json", "receipts/one.json"),
        ("claim --key keystore.json --receipt receits", "receipts"),
        ("ledger verify boks.json", "books.json"),
        ("ledger verify ./boks.json", "books.json"),
        ("nodes ./run/demo", "runs/demo"),
        ("nodes --runs rns", "runs"),
        ("run --app ap", "app"),
        ("bench time-to-accuracy --links link.csv", "links.csv"),
    ],
)
def test_a_mistyped_path_is_answered_with_the_one_that_was_meant(
    line: str, meant: str, hypergpu: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(Path("flower").resolve()))
    note_connection(CONNECTION, "127.0.0.1:1", Path("ca.crt"))
    for name in FILES.split():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("")
    code, _, err = hypergpu(*shlex.split(line))
    assert code and f"remedy: did you mean {meant!r}?" in err.replace(f"{Path.cwd()}/", "")


def test_a_name_that_no_file_can_have_is_refused_as_one_that_is_not_there(hypergpu: Command) -> None:
    code, _, err = hypergpu("node", "start", "--insecure", "--root-certificates", long := "x" * 300)
    assert code == 2 and f"--root-certificates: there is no {long}" in err


def test_certificates_in_a_new_folder_beside_one_of_a_like_name_are_mentioned(hypergpu: Command) -> None:
    first, again, mistyped = (
        hypergpu("node", "certs", "link.example", "--out", out) for out in ("keys", "keys", "kyes")
    )
    assert (first[0], first[2]) == (again[0], again[2]) == (0, "")
    assert mistyped[0] == 0
    assert mistyped[2] == "warning: kyes is new, and so is the authority in it; did you mean 'keys'?\n"
