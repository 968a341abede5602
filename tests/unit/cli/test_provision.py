"""``hypergpu node provision``: an archive holds what its site needs, and nothing of another's."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.chain.signer import KeySigner
from hypergpu_fl.cli import invoke
from hypergpu_fl.cli.provision import shares

PROJECT = """
[server]
address = "link.example:443"
names = ["10.0.0.5"]
images = "registry.example/team"

[sites.tokyo]
nodes = ["tokyo-0", "tokyo-1"]
gpu = true

[sites.berlin]
nodes = ["berlin-0"]
"""
PARIS = '\n[sites.paris]\nnodes = ["paris-0"]\n'
FLOWER_USER = 49999


def test_a_project_is_read_as_any_editor_writes_it(tmp_path: Path) -> None:
    provisioned(tmp_path, "\ufeff" + PROJECT.replace("\n", "\r\n"))


def provisioned(folder: Path, text: str = PROJECT) -> Path:
    (folder / "project.toml").write_text(text)
    assert invoke(["node", "provision", str(folder / "project.toml"), "--format", "json"]) == 0
    return folder / "provisioned"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's archives, to be read and not changed: each node's keystore takes a second to encrypt."""
    return provisioned(tmp_path_factory.mktemp("project"))


def entries(archive: Path) -> dict[str, tuple[bytes, tarfile.TarInfo]]:
    with tarfile.open(archive) as opened:
        found = {}
        for entry in opened.getmembers():
            stream = opened.extractfile(entry)
            found[entry.name] = (stream.read() if stream else b"", entry)
        return found


def secrets_of(folder: Path) -> dict[str, bytes]:
    """Every secret that the operator's folder holds, by whose it is."""
    found = {"ca.key": (folder / "authority" / "ca.key").read_bytes()}
    for name in ("server.key", "superexec.secret"):
        found[f"server {name}"] = (folder / "authority" / name).read_bytes()
    for node in (folder / "nodes").iterdir():
        for name in (node.name, "keystore.json", "password"):
            found[f"{node.name} {name}"] = (node / name).read_bytes()
    return found


def held(archive: Path, secrets: dict[str, bytes]) -> set[str]:
    """Whose secrets appear in an archive, as a file, in a line, or quoted in JSON."""
    everything = b"\0".join(content for content, _ in entries(archive).values())
    quoted = {name: json.dumps(secret.decode()).encode()[1:-1] for name, secret in secrets.items()}
    return {name for name, secret in secrets.items() if secret in everything or quoted[name] in everything}


def test_no_archive_holds_a_secret_of_another_site_or_of_the_authority(made: Path) -> None:
    secrets = secrets_of(made)
    own = {
        "tokyo": {name for name in secrets if name.startswith("tokyo-")},
        "berlin": {name for name in secrets if name.startswith("berlin-")},
        "server": {name for name in secrets if name.startswith("server ")},
    }
    assert {path.name.removesuffix(".tar.gz") for path in (made / "archives").iterdir()} == own.keys()
    for name, theirs in own.items():
        assert held(made / "archives" / f"{name}.tar.gz", secrets) == theirs
    for site, others in (("tokyo", ("berlin",)), ("berlin", ("tokyo",))):
        for path, (content, _) in entries(made / "archives" / f"{site}.tar.gz").items():
            assert not any(other in path or other.encode() in content for other in others), path
    assert len(set(secrets.values())) == len(secrets)


def test_what_a_container_needs_belongs_to_its_user_and_secrets_to_nobody_else(made: Path) -> None:
    values = {secret.strip() for secret in secrets_of(made).values()}
    for archive in (made / "archives").iterdir():
        assert archive.stat().st_mode & 0o077 == 0
        for path, (content, entry) in entries(archive).items():
            assert (entry.uid, entry.gid) == (FLOWER_USER, FLOWER_USER)
            if entry.isdir():
                assert entry.mode == 0o750
                continue
            secret = any(value in content or json.dumps(value.decode())[1:-1].encode() in content for value in values)
            assert entry.mode == (0o400 if secret or path.endswith("secret.env") else 0o444), path
    for place in [made, made / "authority", made / "nodes" / "tokyo-0", made / "archives"]:
        assert place.stat().st_mode & 0o077 == 0


def test_a_sites_archive_has_all_that_its_nodes_start_with(made: Path, tmp_path: Path) -> None:
    found = {path: content for path, (content, _) in entries(made / "archives" / "tokyo.tar.gz").items()}
    for share, node in enumerate(("tokyo-0", "tokyo-1")):
        top = f"tokyo/{node}"
        settings = dict(line.split("=", 1) for line in found[f"{top}/.env"].decode().splitlines())
        assert settings["PARTITION"] == str(share) and settings["SUPERLINK"] == "link.example:443"
        assert settings["NODE_IMAGE"].startswith("registry.example/team/hypergpu-node:")
        assert settings["COMPOSE_FILE"] == "compose.yaml:gpu.yaml"
        assert {f"{top}/{name}" for name in ("compose.yaml", "gpu.yaml", "secret.env", "data", "state")} <= found.keys()
        keystore, key = tmp_path / f"{node}.json", tmp_path / node
        keystore.write_bytes(found[f"{top}/keys/keystore.json"])
        password = found[f"{top}/secret.env"].decode().strip().partition("=")[2]
        assert KeySigner.from_keystore(keystore, password).address.startswith("0x")
        key.write_bytes(found[f"{top}/keys/node"])
        key.chmod(0o600)
        public = subprocess.run(["ssh-keygen", "-y", "-f", str(key)], capture_output=True, check=True).stdout
        assert public.split()[1] in (made / "nodes" / node / f"{node}.pub").read_bytes()
    values = json.loads(found["tokyo/values.json"])
    assert [(node["name"], node["partition"]) for node in values["nodes"]] == [("tokyo-0", 0), ("tokyo-1", 1)]
    kept = {item["metadata"]["name"]: item for item in json.loads(found["tokyo/secrets.json"])["items"]}
    assert kept["node-tokyo-0"]["stringData"]["node"].encode() == found["tokyo/tokyo-0/keys/node"]
    assert "tokyo/hypergpu-node@.service" in found


def test_the_certificate_names_what_nodes_ask_for_and_openssl_accepts_it(made: Path, tmp_path: Path) -> None:
    found = entries(made / "archives" / "server.tar.gz")
    for name in ("ca.crt", "server.pem"):
        (tmp_path / name).write_bytes(found[f"server/keys/{name}"][0])
    verified = ["openssl", "verify", "-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "server.pem")]
    assert subprocess.run(verified, capture_output=True, check=False).returncode == 0
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"link.example", "superlink", "proxy", "localhost"}


def test_a_second_call_changes_nothing_and_one_with_another_site_changes_that_and_the_server(tmp_path: Path) -> None:
    archives = provisioned(tmp_path) / "archives"
    first = {path.name: path.read_bytes() for path in archives.iterdir()}
    provisioned(tmp_path)
    assert {path.name: path.read_bytes() for path in archives.iterdir()} == first
    provisioned(tmp_path, PROJECT + PARIS)
    second = {path.name: path.read_bytes() for path in archives.iterdir()}
    assert second.keys() - first.keys() == {"paris.tar.gz"}
    assert {name for name in first if first[name] != second[name]} == {"server.tar.gz"}
    before, after = (entries_of.keys() for entries_of in (_names(first), _names(second)))
    assert after - before == {"server/nodes/paris-0.pub"}


def _names(archives: dict[str, bytes]) -> dict[str, int]:
    with tarfile.open(fileobj=io.BytesIO(archives["server.tar.gz"])) as opened:
        return {entry.name: entry.size for entry in opened.getmembers()}


def test_a_removed_site_leaves_its_partition_and_the_next_one_takes_it(tmp_path: Path) -> None:
    folder = provisioned(tmp_path)
    provisioned(tmp_path, PROJECT.partition("[sites.tokyo]")[0] + '[sites.berlin]\nnodes = ["berlin-0"]\n' + PARIS)
    assert json.loads((folder / "partitions.json").read_text()) == {"berlin-0": 2, "paris-0": 0}
    assert {path.name for path in (folder / "archives").iterdir()} == {
        *("server.tar.gz", "berlin.tar.gz", "paris.tar.gz")
    }
    assert "server/nodes/tokyo-0.pub" not in entries(folder / "archives" / "server.tar.gz")
    assert shares(["a", "b", "c"], {"b": 0}) == {"b": 0, "a": 1, "c": 2}


def test_the_gap_that_a_site_leaves_is_told_and_can_be_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    four = PROJECT + '\n[sites.lima]\nnodes = ["lima-0", "lima-1"]\n'
    folder = provisioned(tmp_path, four)
    assert "warning" not in capsys.readouterr().err
    without_tokyo = four.partition("[sites.tokyo]")[0] + "[sites.berlin]" + four.partition("[sites.berlin]")[2]
    provisioned(tmp_path, without_tokyo)
    told = capsys.readouterr().err
    assert "nobody has partition 0, 1;" in told and "num_nodes = 3 refuses those above 2" in told
    before = {path.name: path.read_bytes() for path in (folder / "archives").iterdir()}
    assert invoke(["node", "provision", str(tmp_path / "project.toml"), "--close-gaps"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert json.loads((folder / "partitions.json").read_text()) == {"berlin-0": 2, "lima-0": 0, "lima-1": 1}
    after = {path.name: path.read_bytes() for path in (folder / "archives").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"lima.tar.gz"}
    lima = entries(folder / "archives" / "lima.tar.gz")
    assert b"PARTITION=1\n" in lima["lima/lima-1/.env"][0]
    assert [node["partition"] for node in json.loads(lima["lima/values.json"][0])["nodes"]] == [0, 1]


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30), min_size=1))
def test_closed_shares_are_all_from_zero_and_only_those_beyond_have_moved(before: set[int], nodes: set[int]) -> None:
    had = {f"n{node}": share for share, node in enumerate(sorted(before))}
    names = [f"n{node}" for node in sorted(nodes)]
    found = shares(names, had, close_gaps=True)
    assert found.keys() == set(names) and sorted(found.values()) == list(range(len(names)))
    assert all(found[name] == had[name] for name in names if had.get(name, len(names)) < len(names))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"link.example:443"', '"link.example"'), "server.address is 'link.example'"),
        (("names =", "name ="), "server.name is not a setting"),
        (('"berlin-0"', '"tokyo-0"'), "the node 'tokyo-0' twice"),
        (('"berlin-0"', '"../../etc"'), "names are of small letters"),
        (("[sites.berlin]", "[sites.server]"), "the name of the server's own archive"),
        (('["berlin-0"]', "[]"), "sites.berlin.nodes"),
        (('"registry.example/team"', '"a b"'), "server.images is 'a b'"),
        (("[server]", "[server"), "cannot be read"),
        (("[server]", "#" * (1 << 20) + "\n[server]"), "is larger than 1 MiB"),
        (("link.example:443", "link example:443"), "server.address"),
    ],
)
def test_a_wrong_project_is_refused_with_its_fault_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], said: str
) -> None:
    (tmp_path / "project.toml").write_text(PROJECT.replace(*change))
    assert invoke(["node", "provision", str(tmp_path / "project.toml")]) == 2
    told = capsys.readouterr().err
    assert said in told and "remedy: " in told and "Traceback" not in told
    assert not (tmp_path / "provisioned").exists()
