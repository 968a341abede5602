"""A TLS handshake that breaks off is tried again, as any other connection that breaks off.

Flower 1.41 tries no connection again whose error has "ssl" or "tls" in its text. Most such errors pass: the proxy was
restarted just now, or the link lost the connection in its first second. A SuperNode left its run for good after one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from strategies.flower_internals import Place, replace

# What stays so until somebody changes a file: another certificate, another protocol than TLS, a refusal by the peer.
LASTING: Final = ("certificate", "wrong_version_number", "unsupported", "alert")


def lasts(error: Exception) -> bool:
    """Whether an error of a connection will be there at the next try, too."""
    text = str(error).lower()
    return any(words in text for words in LASTING)


def patient(make: Callable[[], Any]) -> Callable[[], Any]:
    """Maker of Flower's retry invokers that gives up a connection only for errors that last."""
    import httpx

    def make_patient() -> Any:
        invoker = make()
        gives_up = invoker.should_giveup
        invoker.should_giveup = lambda error: (
            not (isinstance(error, httpx.TransportError) and not lasts(error)) and gives_up(error)
        )
        return invoker

    return make_patient


def try_broken_ones_again(place: Place) -> None:
    """Have a module of Flower's try handshakes again that broke off; ``place`` is its maker of retry invokers."""
    from strategies.flower_internals import make_simple_http_retry_invoker

    replace(place, patient(make_simple_http_retry_invoker))
