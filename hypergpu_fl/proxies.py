"""Which proxy a request takes: the machine's own settings, except that loopback requests take none."""

from __future__ import annotations

import ipaddress
import socket
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
    """Whether a request to ``host`` stays on this machine, by name or by number in any spelling."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # 127.1 and 0x7f000001, as sockets read them
        except OSError:
            return f".{host.lower().rstrip('.')}".endswith(".localhost")
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified  # whoever connects to 0.0.0.0 reaches this machine


def beside_loopback(environ: Mapping[str, str]) -> dict[str, str]:
    """``no_proxy`` variables for a child whose libraries would use a proxy for loopback requests, as gRPC does.

    gRPC reads only the lower-case variable, other libraries read either.
    """
    given = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    joined = "*" if "*" in names else ",".join(dict.fromkeys([*names, *LOOPBACK]))
    return {"no_proxy": joined, "NO_PROXY": joined} | ({"no_grpc_proxy": joined} if "no_grpc_proxy" in environ else {})
