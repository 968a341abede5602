"""Which proxy a request takes: the machine's own settings, except that loopback requests take none."""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def proxy_of(url: str) -> str | None:
    """Proxy for ``url`` by ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``, as Python does.

    Raises
    ------
    ValueError
        If ``url`` is none.
    """
    parts = urlsplit(url)
    if not parts.hostname or is_loopback(parts.hostname):
        return None
    proxies = urllib.request.getproxies_environment()
    if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2], proxies):
        return None
    proxy = proxies.get(parts.scheme.lower()) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine, by name or by number."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return f".{host.lower().rstrip('.')}".endswith(".localhost")


def beside_loopback(environ: Mapping[str, str]) -> dict[str, str]:
    """``no_proxy`` variables for a child whose libraries would use a proxy for loopback requests, as gRPC does.

    gRPC reads only the lower-case variable, other libraries read either.
    """
    given = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    joined = "*" if "*" in names else ",".join(dict.fromkeys([*names, *LOOPBACK]))
    return {"no_proxy": joined, "NO_PROXY": joined} | ({"no_grpc_proxy": joined} if "no_grpc_proxy" in environ else {})
