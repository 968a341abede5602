"""Run what calls the user's own code in a process apart, which may end, crash or hang without harm to the command."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context
from typing import Any, Final, TypeVar

from hypergpu_fl import logs
from hypergpu_fl.children import end_with
from hypergpu_fl.errors import HyperGPUError, TaskError

_REMEDY: Final = (
    "let the task raise an error rather than end the process; if a library crashed, the lines above show where"
)
_ENDS_WITHIN_S: Final = 2.0  # after its answer; a thread that the task left behind is not waited for

T = TypeVar("T")


def apart(work: Callable[..., T], *arguments: Any, doing: str) -> T:
    """What ``work(*arguments)`` returns; all of it must pickle.

    Parameters
    ----------
    doing : str
        What is under way, such as ``"trying task:Mine"``.

    Raises
    ------
    HyperGPUError
        What ``work`` raises.
    TaskError
        If the process ends before it has answered.
    """
    context = get_context("spawn")  # not forked: this process may have threads, and torch does not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(os.getpid(), theirs, work, arguments))
    with _safe_path():
        process.start()
    theirs.close()
    try:
        connection.wait([ours, process.sentinel])
        try:
            answer = ours.recv() if ours.poll() else None
        except EOFError:
            answer = None
    finally:
        process.join(_ENDS_WITHIN_S)
        if process.is_alive():
            process.kill()
            process.join()
    if answer is None:
        raise ended_itself(process.exitcode or 0, doing)
    result: T
    result, error = answer
    if error is not None:
        raise error
    return result


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Let a Python that starts now find no modules in the working directory, where a ``queue.py`` may lie."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


def _answer(parent: int, theirs: connection.Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    end_with(parent)
    faulthandler.enable()
    logs.say_as_commands_do()
    try:
        theirs.send((work(*arguments), None))
    except HyperGPUError as error:
        theirs.send((None, error))
    except KeyboardInterrupt:
        pass  # the command was interrupted too, and says so


def ended_itself(code: int, doing: str) -> TaskError:
    """Error for a process that ended before it answered."""
    return TaskError(f"the process {how_it_ended(code)} while {doing}", _REMEDY)


def how_it_ended(code: int) -> str:
    """An exit code in words; a negative one is a signal's, as `subprocess` tells it."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
