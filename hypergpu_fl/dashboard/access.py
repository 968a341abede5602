"""Who may see the page, and what a browser may do with it.

Without a token, everybody on this machine may see it. A request under another host's name is refused, because it comes
from a foreign page whose name was made to point here (DNS rebinding). On an address that others reach there is always a
token, on a loopback address if the user chose one: browsers get it from the link and keep it in a cookie that no script
can read; programs send it as a bearer token.
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


def local_only(host: str) -> bool:
    """Whether an address to listen on can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """Checks that every request is allowed, and adds security headers to every answer.

    Parameters
    ----------
    app : ASGIApp
        The protected application.
    token : str
        Token that requests must show; empty to allow everybody on this machine.
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
        """Answer to a request that is not allowed; None if it is."""
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("this page is read-only\n", 405, {"Allow": "GET, HEAD"})
        headers = Headers(scope=scope)
        if not self._token:
            host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
            if local_only(host.strip("[]")):
                return None
            return PlainTextResponse("ask for this page as 127.0.0.1\n", 421)
        shown = (
            headers.get("authorization", "").removeprefix("Bearer "),
            _cookie(headers.get("cookie", "")),
            dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token", ""),
        )
        if any(hmac.compare_digest(one.encode(), self._token.encode()) for one in shown):
            return None
        return PlainTextResponse("open the link that `hypergpu dashboard` printed, with its ?token=\n", 401)

    def _entrance(self, scope: Scope) -> ASGIApp | None:
        """Redirect a link with the token to one without it, and keep the token in a cookie; None without a token."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not self._token or "token" not in dict(query):
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # A browser would read a path that begins with two slashes as another host's name.
        answer = RedirectResponse("/" + scope["path"].lstrip("/") + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", secure=scope["scheme"] == "https")
        return answer


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
