"""Run what calls the user's own code in a process apart, which may end or crash without ending the command."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Final, TypeVar

from hypergpu_fl.errors import TaskError

_REMEDY: Final = (
    "let the task raise an error rather than end the process; if a library crashed, the lines above show where"
)

T = TypeVar("T")


def apart(work: Callable[..., T], *arguments: Any, doing: str) -> T:
    """What ``work(*arguments)`` returns, or raises; all of it must pickle.

    Parameters
    ----------
    doing : str
        What is under way, such as ``"trying task:Mine"``.

    Raises
    ------
    TaskError
        If the process ends before it has answered.
    """
    # spawned, not forked: this process may have threads, and torch does not survive a fork
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=faulthandler.enable) as executor:
        try:
            return executor.submit(work, *arguments).result()
        except BrokenProcessPool:
            raise ended_itself(doing) from None


def ended_itself(doing: str) -> TaskError:
    """Error for a process that ended before it answered."""
    return TaskError(f"the process ended without an answer while {doing}", _REMEDY)


def how_it_ended(code: int) -> str:
    """An exit code in words; a negative one is a signal's, as `subprocess` tells it."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
