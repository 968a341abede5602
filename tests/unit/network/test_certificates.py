"""Certificates as OpenSSL and Flower read them."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from hypergpu_fl.errors import UsageError
from hypergpu_fl.network.certificates import write_certificates, write_node_key

NOW = datetime.datetime.now(datetime.UTC)


def shake_hands(folder: Path, name: str) -> None:
    """A TLS handshake between Python's two sides, as the nodes make it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            near, _ = listener.accept()
            with near, contextlib.suppress(OSError):
                server.wrap_socket(near, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname()) as raw,
                client.wrap_socket(raw, server_hostname=name),
            ):
                pass
        finally:
            thread.join()


@pytest.mark.parametrize("name", ["link.example", "10.1.2.3", "localhost", "127.0.0.1"])
def test_every_name_of_the_server_is_accepted(tmp_path: Path, name: str) -> None:
    write_certificates(tmp_path, ["link.example", "10.1.2.3"], now=NOW)
    shake_hands(tmp_path, name)


def test_another_name_another_authority_and_an_expired_certificate_are_refused(tmp_path: Path) -> None:
    write_certificates(tmp_path, ["link.example"], now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        shake_hands(tmp_path, "other.example")
    (tmp_path / "ca.key").unlink()
    (tmp_path / "ca.crt").unlink()
    old = (tmp_path / "server.pem").read_bytes()
    write_certificates(tmp_path, ["link.example"], now=NOW - datetime.timedelta(days=3), days=2)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(tmp_path, "link.example")
    assert old != (tmp_path / "server.pem").read_bytes()


def test_renewing_keeps_the_authority(tmp_path: Path) -> None:
    write_certificates(tmp_path, ["a.example"], now=NOW)
    trusted = (tmp_path / "ca.crt").read_bytes()
    write_certificates(tmp_path, ["b.example"], now=NOW)
    assert (tmp_path / "ca.crt").read_bytes() == trusted
    shake_hands(tmp_path, "b.example")


def test_private_keys_are_the_owners_alone(tmp_path: Path) -> None:
    write_certificates(tmp_path, [], now=NOW)
    write_node_key(tmp_path, "site")
    for name in ("ca.key", "server.key", "site"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_openssh_reads_a_nodes_key_and_finds_the_same_public_half(tmp_path: Path) -> None:
    private, public = write_node_key(tmp_path, "site")
    derived = subprocess.run(["ssh-keygen", "-y", "-f", private], capture_output=True, text=True, check=True).stdout
    assert derived.split()[:2] == public.read_text().split()[:2]


def test_flower_reads_a_nodes_key(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    private, _ = write_node_key(tmp_path, "site")
    assert isinstance(load_ssh_private_key(private.read_bytes(), None), ec.EllipticCurvePrivateKey)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    write_node_key(tmp_path, "site")
    with pytest.raises(UsageError, match="never overwritten"):
        write_node_key(tmp_path, "site")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_a_key_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a name"):
        write_node_key(tmp_path, name)


@pytest.mark.parametrize(
    ("given", "certified"),
    [
        ("[::1]", "::1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("m\u00fcnchen.example", "xn--mnchen-3ya.example"),
        ("*.Stra\u00dfe.example", "*.xn--strae-oqa.example"),
        ("link.example.", "link.example"),
        ("node-7.10.example", "node-7.10.example"),
    ],
)
def test_a_name_is_certified_in_the_form_that_clients_compare(tmp_path: Path, given: str, certified: str) -> None:
    files = write_certificates(tmp_path, [given], now=NOW)
    certificate = x509.load_pem_x509_certificate(files["server.pem"].read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert str(next(iter(names)).value) == certified


@pytest.mark.parametrize(
    "host",
    [
        *("", "a b", "host:80", "https://x", "x" * 300),
        *("10.0.0.300", "10.0.0", "1.2.3.4.5", "[::1", "fe80::1::2", "-a.example", "a..example", "a_b.example"),
    ],
)
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="neither a host name"):
        write_certificates(tmp_path, [host], now=NOW)


def test_files_of_two_authorities_are_told_apart(tmp_path: Path) -> None:
    write_certificates(tmp_path / "a", [], now=NOW)
    write_certificates(tmp_path / "b", [], now=NOW)
    (tmp_path / "a" / "ca.crt").write_bytes((tmp_path / "b" / "ca.crt").read_bytes())
    with pytest.raises(UsageError, match="do not belong together"):
        write_certificates(tmp_path / "a", [], now=NOW)
    (tmp_path / "a" / "ca.crt").write_text("nonsense")
    with pytest.raises(UsageError, match="cannot read the authority"):
        write_certificates(tmp_path / "a", [], now=NOW)
