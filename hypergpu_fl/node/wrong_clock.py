"""Tells a node that its SuperLink refuses it because of its clock.

Each request of a SuperNode is signed with the time. Flower 1.41 answers 401 if that is more than 5 s ahead of the
SuperLink's clock or 305 s behind it, as to a wrong key, and the SuperNode ends without a reason. Every answer holds the
server's own time, which shows whether that is the cause.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from strategies.flower_internals import Place, replace

if TYPE_CHECKING:
    import httpx

AHEAD_S: Final = 3.0  # less than Flower allows: the answer is written later, and its time is in whole seconds
BEHIND_S: Final = 300.0
UNAUTHORISED: Final = 401

log = logging.getLogger(__name__)


class Telling:
    """A signer of requests that logs why one was refused, if its time was wrong."""

    def __init__(self, signer: Any, clock: Callable[[], float]) -> None:
        self._signer, self._clock = signer, clock

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Sign the request, send it, and look at the answer."""
        signed_s = self._clock()
        response: httpx.Response = self._signer.intercept(context, call_next)
        if response.status_code == UNAUTHORISED and (why := wrong(response.headers.get("date", ""), signed_s)):
            log.error("the SuperLink refuses this node: %s; let NTP set it, and start the node again", why)
        return response


def wrong(date: str, signed_s: float) -> str:
    """How wrong a clock was at ``signed_s``, by the time in the answer's header; empty if it was not, or none is there.

    However late the answer comes, no clock is called ahead that is not.
    """
    try:
        ahead_s = signed_s - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return ""
    if -BEHIND_S <= ahead_s <= AHEAD_S:
        return ""
    return f"its clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the SuperLink's"


def tell_wrong_clocks(place: Place) -> None:
    """Have Flower's signer of requests, which ``place`` makes, tell why a request was refused."""
    make = place.value()
    replace(place, lambda *keys: Telling(make(*keys), time.time))
