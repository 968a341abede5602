"""Credentials taken out of text, before it reaches a terminal, a file or an error.

Registered secrets are matched exactly and not by their looks: transaction hashes and Merkle roots are 64
hexadecimal digits as private keys are, and must stay readable.
"""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "***"
_SHORTEST: Final = 6  # characters; a shorter "secret" would blank ordinary words

_SECRET_NAME: Final = re.compile(
    r"private_?key|secret|passw(or)?d|passphrase|mnemonic|seed_?phrase|coordinator_?key|api_?key|token|credential", re.I
)
_URL: Final = re.compile(r"\b(?:https?|wss?)://[^\s'\"<>`|\\^{}]+", re.I)
_USERINFO: Final = re.compile(r"(?<=://)[^/@?#]*@")
_KEY_QUERY: Final = re.compile(
    r"(?<=[?&;])((?:[\w-]*key|[\w-]*token|auth|[\w-]*secret|passw(?:or)?d|signature|sig)=)[^&;#]*", re.I
)
# A path segment that is a key: long, and mixed of letters and digits, as providers issue them (/v2/<key>, /v3/<key>).
_KEY_SEGMENT: Final = re.compile(r"(?<=/)(?=[\w.-]*\d)(?=[\w.-]*[A-Za-z])[\w-]{16,}(?=[/?#]|$)")
_VERSIONED_SEGMENT: Final = re.compile(r"(?<=/)(v\d+/)(?!\*)[\w-]{8,}", re.I)

_registered: set[str] = set()


def looks_secret(name: str) -> bool:
    """Whether a setting of this name would hold a secret."""
    return bool(_SECRET_NAME.search(name))


def register(secret: str) -> None:
    """Take ``secret`` out of all text from now on: as given, and if it is hexadecimal in either case, bare or 0x.

    A mnemonic or password is matched as it stands. Anything shorter than six characters is ignored.
    """
    for form in (secret.strip(), secret.strip().removeprefix("0x").removeprefix("0X")):
        if len(form) >= _SHORTEST:
            _registered.add(form)


def forget() -> None:
    """Drop all registered secrets (a process that ends its use of a key, and tests)."""
    _registered.clear()


def redact_url(url: str) -> str:
    """``url`` without user, password and anything that looks like an API key."""
    url = _USERINFO.sub(f"{MASK}@", url)
    url = _KEY_QUERY.sub(rf"\1{MASK}", url)
    url = _VERSIONED_SEGMENT.sub(rf"\1{MASK}", url)
    return _KEY_SEGMENT.sub(MASK, url)


def has_credentials(url: str) -> bool:
    """Whether ``url`` carries something that others must not read."""
    return redact_url(url) != url


def redact(text: str) -> str:
    """``text`` without registered secrets and without credentials in URLs."""
    if _registered:
        longest_first = sorted(_registered, key=len, reverse=True)
        text = re.sub("|".join(map(re.escape, longest_first)), MASK, text, flags=re.I)
    if "://" in text:
        text = _URL.sub(lambda match: redact_url(match[0]), text)
    return text
