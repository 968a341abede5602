"""Removes credentials from text before it reaches a terminal, a file or an error.

Registered secrets are matched exactly, not by their form: transaction hashes and Merkle roots are 64 hexadecimal
digits like private keys, and must stay readable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

SECRETS: Final = (
    "HYPERGPU_COORDINATOR_KEY",
    "HYPERGPU_KEYSTORE_PASSWORD",
    "HYPERGPU_NODE_KEY",
    "HYPERGPU_DASHBOARD_TOKEN",
)
"""Environment variables that hold secrets."""

MASK: Final = "***"
_SHORTEST: Final = 4  # characters; a shorter "secret" would blank ordinary words
_LONG: Final = 16  # characters; a shorter one is matched as a whole word, since "data" is no secret in "dataset"

_SECRET_NAME: Final = re.compile(
    r"private_?key|secret|passw(or)?d|passphrase|mnemonic|seed_?phrase|coordinator_?key|api_?key|token(?![a-z])|credential",
    re.I,
)
_HEX_KEY: Final = re.compile(r"(0x)?[0-9a-fA-F]{64}")
_URL: Final = re.compile(r"\b(?:https?|wss?)://[^\s'\"<>`|\\^{}]+", re.I)
_USERINFO: Final = re.compile(r"(?<=://)[^/@?#]*@")
_KEY_QUERY: Final = re.compile(
    r"(?<=[?&;])((?:[\w-]*key|[\w-]*token|auth|[\w-]*secret|passw(?:or)?d|signature|sig)=)[^&;#]*", re.I
)
# A path segment that is a key, as providers issue them: letters and digits mixed, 16 or more without a dash or 32 or
# more with (a UUID). After a version (/v2/<key>) a shorter one counts too. 0x... is an address or hash: public.
_MIXED: Final = r"(?=[\w-]*\d)(?=[\w-]*[A-Za-z])"
_KEY_SEGMENT: Final = re.compile(rf"(?<=/)(?!0x){_MIXED}(?:\w{{16,}}|[\w-]{{32,}})(?=[/?#,]|$)")
_VERSIONED_SEGMENT: Final = re.compile(r"(?<=/)(v\d+/)(?:(?=[\w-]*\d)[\w-]{8,}|[\w-]{20,})", re.I)

_registered: set[str] = set()


def looks_secret(name: str) -> bool:
    """Whether a setting of this name would hold a secret."""
    return bool(_SECRET_NAME.search(name))


def register(secret: str) -> None:
    """Take ``secret`` out of all text from now on, in any case if it is long, else as a word of its own.

    A hexadecimal key is matched with or without 0x, as decimal number and as Python prints its bytes; a mnemonic or
    password as it stands, quoted in a URL, and escaped in JSON. Anything shorter than four characters is ignored.
    """
    bare = secret.strip()
    forms = {bare, quote(bare, safe=""), json.dumps(bare)[1:-1]}
    if _HEX_KEY.fullmatch(bare):
        digits = bare[-64:]
        forms = {digits, str(int(digits, 16)), repr(bytes.fromhex(digits))[2:-1]}
    _registered.update(form for form in forms if len(form) >= _SHORTEST)


def secret_from_hex(text: str) -> bytes:
    """Bytes of a key in hexadecimal digits, with or without 0x; registers it. A ``ValueError`` shows none of them."""
    try:
        secret = bytes.fromhex(text.strip().removeprefix("0x"))
    except ValueError:
        raise ValueError("not hexadecimal") from None
    register(secret.hex())
    return secret


def redact_url(url: str) -> str:
    """``url`` without user, password and anything that looks like an API key."""
    url = _USERINFO.sub(f"{MASK}@", url)
    url = _KEY_QUERY.sub(rf"\1{MASK}", url)
    url = _VERSIONED_SEGMENT.sub(rf"\1{MASK}", url)
    return _KEY_SEGMENT.sub(MASK, url)


def has_credentials(url: str) -> bool:
    """Whether ``url`` carries something that others must not read; what is no URL (a path) does not."""
    return "://" in url and redact_url(url) != url


def redact(text: str) -> str:
    """``text`` without registered secrets and without credentials in URLs."""
    if _registered:
        longest_first = sorted(_registered, key=len, reverse=True)
        text = re.sub("|".join(map(_pattern, longest_first)), MASK, text)
    if "://" in text:
        text = _URL.sub(lambda match: redact_url(match[0]), text)
    return text


def redact_values(content: Any) -> Any:
    """``content``, of mappings and sequences, with all text in it redacted; names and numbers stay what they are."""
    if isinstance(content, str):
        return redact(content)
    if isinstance(content, Mapping):
        return {name: redact_values(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [redact_values(value) for value in content]
    if isinstance(content, int) and content >= 1 << 64:  # no count, but what a key may be as a number
        return content if redact(str(content)) == str(content) else MASK
    return content


def _pattern(secret: str) -> str:
    if len(secret) >= _LONG:
        return f"(?i:{re.escape(secret)})"
    return rf"(?<!\w){re.escape(secret)}(?!\w)"
