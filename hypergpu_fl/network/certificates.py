"""Certificates and keys of a deployment: one authority, the SuperLink's certificate, and a key pair per SuperNode.

All keys are on elliptic curve P-384, the only kind of OpenSSH key that Flower's SuperNode authentication accepts.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import idna
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hypergpu_fl.errors import UsageError

AUTHORITY_DAYS: Final = 3650
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
SERVER_DAYS: Final = 397  # the longest that browsers and Apple's TLS accept
CLOCK_SKEW: Final = datetime.timedelta(hours=1)  # so that a host whose clock is a little behind can start at once


def write_certificates(
    folder: Path, hosts: Sequence[str], *, now: datetime.datetime, days: int = SERVER_DAYS
) -> dict[str, Path]:
    """Write a SuperLink's certificate for ``hosts``, signed by the folder's authority, which is made if missing.

    Parameters
    ----------
    folder : Path
        Gets ``ca.key``, ``ca.crt``, ``server.key``, ``server.pem``; an existing server certificate is renewed.
    hosts : sequence of str
        DNS names and IP addresses by which nodes reach the SuperLink; they become its subject alternative names,
        which clients compare. ``localhost`` and 127.0.0.1 are added.
    now : datetime
        Start of validity, with a time zone.
    days : int
        Validity of the server's certificate.

    Raises
    ------
    UsageError
        If a name is no host name, or the authority's files do not belong together.
    """
    names = host_names(hosts)
    folder.mkdir(parents=True, exist_ok=True)
    authority_key, authority = _authority(folder, now)
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "HyperGPU SuperLink")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    files = {name: folder / name for name in ("ca.crt", "server.pem", "server.key")}
    _write(files["server.key"], _private_pem(key), secret=True, replace=True)
    _write(files["server.pem"], certificate.public_bytes(serialization.Encoding.PEM), replace=True)
    return files


def host_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Names in the certificate of a SuperLink that is reached by ``hosts``.

    Raises
    ------
    UsageError
        If one is not a host name.
    """
    return list(dict.fromkeys(_general_name(host) for host in [*hosts, "localhost", "127.0.0.1"]))


def write_node_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a SuperNode's key pair, ``NAME`` and ``NAME.pub``, in OpenSSH's formats.

    Raises
    ------
    UsageError
        If the key exists, since replacing it would shut out the node that holds it.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"{name!r} is not a name for a key file", "use letters, digits and dashes")
    key = ec.generate_private_key(ec.SECP384R1())
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / name, folder / f"{name}.pub"
    _write(
        private,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
        secret=True,
    )
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _write(public, line + b" " + name.encode() + b"\n", replace=True)
    return private, public


def _authority(folder: Path, now: datetime.datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_file, certificate_file = folder / "ca.key", folder / "ca.crt"
    if key_file.exists():
        try:
            key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read the authority in {folder}: {error}", "give another --out") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            raise UsageError(f"ca.key and ca.crt in {folder} do not belong together", "give another --out")
        return key, certificate
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "HyperGPU deployment")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    _write(key_file, _private_pem(key), secret=True)
    _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
    return key, certificate


def _general_name(host: str) -> x509.GeneralName:
    """IP address, with or without brackets, or DNS name, international ones in their ASCII form (IDNA 2008)."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return x509.IPAddress(ipaddress.ip_address(bare))
    except ValueError:  # a name, then
        pass
    star = "*." if host.startswith("*.") else ""
    try:
        name = idna.encode(host.removeprefix(star), uts46=True).decode().removesuffix(".")
    except idna.IDNAError:
        name = ""
    labels = name.split(".")
    # A name that ends in a number is a mistyped IP address, and every client treats it as an address.
    if labels[-1].isdecimal() or not all(_LABEL.fullmatch(label) for label in labels):
        raise UsageError(
            f"{host!r} is neither a host name nor an IP address",
            "give the names that nodes will use, without scheme and port: link.example, 10.0.0.3, ::1, münchen.example",
        )
    return x509.DNSName(star + name)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(file: Path, content: bytes, *, secret: bool = False, replace: bool = False) -> None:
    if file.exists() and not replace:
        raise UsageError(f"{file} exists; a key is never overwritten", "choose another name or folder")
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644), "wb") as opened:
        opened.write(content)
