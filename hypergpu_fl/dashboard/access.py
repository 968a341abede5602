"""Who may see the page, and what a browser may do with it.

On a loopback address everybody on this machine may; a request under another host's name is refused, for it comes from a
page elsewhere whose name was made to point here. On any other address a token is asked for: once in the link, then in a
cookie that no script can read; programs send it as a bearer.
"""

from __future__ import annotations

import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE: Final = "hypergpu_dashboard"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address that is listened on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """Asks every request for its right, and gives every answer its headers.

    Parameters
    ----------
    app : ASGIApp
        What is protected.
    token : str
        What must be shown; empty for whoever is on this machine.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refusal(scope) or self._entrance(scope)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """What a request without the right to anything is told."""
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("this page is read-only\n", 405, {"Allow": "GET, HEAD"})
        headers = Headers(scope=scope)
        if not self._token:
            host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
            if is_loopback(host.strip("[]")):
                return None
            return PlainTextResponse("ask for this page as 127.0.0.1\n", 421)
        shown = (
            headers.get("authorization", "").removeprefix("Bearer "),
            _cookie(headers.get("cookie", "")),
            dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token", ""),
        )
        if any(hmac.compare_digest(one.encode(), self._token.encode()) for one in shown):
            return None
        return PlainTextResponse("open the link with the token that `hypergpu dashboard` printed\n", 401)

    def _entrance(self, scope: Scope) -> ASGIApp | None:
        """Take the token out of the link that brought it, and keep it in a cookie."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not self._token or "token" not in dict(query):
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # From two slashes on a browser would take the path for another host's name.
        answer = RedirectResponse("/" + scope["path"].lstrip("/") + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", secure=scope["scheme"] == "https")
        return answer


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
