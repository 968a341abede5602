"""A run on a SuperLink that others started: submitting it, following it, and finding it again after a restart.

The run's log comes through Flower, because its files may be on another machine.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, TextIO, TypeVar

from hypergpu_fl.cli.endings import was_lost
from hypergpu_fl.cli.options import debugging
from hypergpu_fl.cli.submission import Submission, submit
from hypergpu_fl.cli.superlink import flower_environment
from hypergpu_fl.config import PLACES, PREFIX, Config
from hypergpu_fl.errors import SuperLinkSilent, UsageError
from hypergpu_fl.files import write_whole
from hypergpu_fl.runs import SUBMITTED
from strategies.failure import without_colours

ASK_S: Final = 30.0  # the end of the log shows that the run has ended, but a hanging connection never ends it
LOOK_S: Final = 3.0
PATIENCE_S: Final = 1800.0  # with a SuperLink that does not answer: enough to set up a machine again
MOST_LOSSES: Final = 5
_ROUND: Final = re.compile(r"\bround +\d+/\d+  .*")  # as `hypergpu_fl.server.report` logs it

# How Flower says that a ServerApp raised, each with lines below it; the command's own error says it at the end.
_FAILED: Final = re.compile(r"  error: (ServerApp raised an exception|Exit Code: \d+)$")
_TRACEBACK: Final = "Traceback (most recent call last)"

Say = Callable[[str], None]
T = TypeVar("T")


def not_sent(origins: Mapping[str, str]) -> list[str]:
    """Warnings about settings that name a place on this machine; ``origins`` says where each setting comes from."""
    return [
        f"warning: {place} is not sent; server and nodes, on this machine too, "
        f"take theirs from {PREFIX}{place.upper().replace('.', '__')}"
        for place in PLACES
        if not origins.get(place, PREFIX).startswith(PREFIX)
    ]


def deploy(
    config: Config,
    app: Path,
    connection: str,
    folder: Path,
    environ: Mapping[str, str],
    say: Say,
    *,
    wait_s: float = 0.0,
) -> tuple[Submission, str, str]:
    """Submit a run and follow it to its end; returns the submission that ended, its status and its details.

    If the SuperLink does not answer yet, submitting is tried for ``wait_s`` seconds. Ctrl-C stops the run; any other
    signal ends only this command.
    """
    submission = _accepted(lambda: hand_in(config, app, connection, folder, environ), wait_s)
    try:
        return follow_log(submission, lambda: hand_in(config, app, connection, folder, environ), say)
    except KeyboardInterrupt as stop:
        if stop.args:  # see run.stoppable: nobody typed Ctrl-C; this machine or its terminal is going away
            raise
        submission.stop()
        raise


def hand_in(config: Config, app: Path, connection: str, folder: Path, environ: Mapping[str, str]) -> Submission:
    """Submit a run, or the rounds that its books lack, and note where to find it again."""
    submission = submit(config, app=app, connection=connection, environ=flower_environment(environ), scratch=folder)
    write_whole(folder / SUBMITTED, json.dumps({"run_id": submission.run_id, "connection": connection}) + "\n")
    return submission


def find(folder: Path, environ: Mapping[str, str], *, connection: str = "") -> Submission:
    """The submission that `hand_in` noted; ``connection`` replaces the connection it was made over.

    Raises
    ------
    UsageError
        If the run was not submitted to a SuperLink from here.
    """
    try:
        noted = json.loads((folder / SUBMITTED).read_text(encoding="utf-8"))
        return Submission(str(noted["run_id"]), connection or str(noted["connection"]), flower_environment(environ))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"run {folder.name!r} was not submitted to a SuperLink from here",
            "attach where it was submitted, or give Flower's id of it, as `flwr ls` lists it, and --superlink; "
            "one that has ended goes on by `hypergpu run --resume`",
        ) from None


def follow_log(submission: Submission, again: Callable[[], Submission] | None, say: Say) -> tuple[Submission, str, str]:
    """Show a run's log until the run has ended, even if the SuperLink restarts meanwhile.

    Parameters
    ----------
    again : callable, optional
        Submits the run again if its ServerApp died; the run then continues where its books end, and if they are
        complete, it ends as completed.

    Returns
    -------
    tuple of Submission, str, str
        The submission that ended, its status and its details.

    Raises
    ------
    RunFailed
        If the SuperLink has not answered for ``PATIENCE_S``, or does not know the run.
    """
    losses = 0
    while True:
        status, details = _ended(submission, say)
        if again is None or losses >= MOST_LOSSES or not was_lost(details):
            return submission, status, details
        losses += 1
        say(f"warning: Flower lost the ServerApp ({details.rstrip('.')}); the run is submitted again and goes on")
        submission = _answered(again, say)


def _ended(submission: Submission, say: Say) -> tuple[str, str]:
    shown = NewLines(say)
    while True:
        with _log(submission, shown) as reader:
            while True:
                reader.join(ASK_S)
                sending = reader.is_alive()
                status, details = _answered(submission.status, say)
                if status.startswith("finished"):
                    reader.join(LOOK_S)
                    return status, details
                if not sending:  # the SuperLink has gone
                    break
        time.sleep(LOOK_S)


def _accepted(submit: Callable[[], Submission], wait_s: float) -> Submission:
    until_s = time.monotonic() + wait_s
    while True:
        try:
            return submit()
        except SuperLinkSilent:
            if time.monotonic() >= until_s:
                raise
        time.sleep(LOOK_S)


def _answered(ask: Callable[[], T], say: Say) -> T:
    """The SuperLink's answer; a SuperLink that is away is asked again for up to ``PATIENCE_S``."""
    silent_since_s: float | None = None
    while True:
        try:
            answer = ask()
        except SuperLinkSilent as error:
            now_s = time.monotonic()
            if silent_since_s is None:
                silent_since_s = now_s
                say(f"warning: {error.cause}; the run does not need this command, which goes on asking")
            if now_s - silent_since_s > PATIENCE_S:
                raise
            time.sleep(LOOK_S)
            continue
        if silent_since_s is not None:
            say(f"the SuperLink answers again, after {time.monotonic() - silent_since_s:.0f} s")
        return answer


class NewLines:
    """Says each line of a log once, although Flower sends the log from its beginning at every request.

    Tracebacks are said with ``--debug`` only; the run's log file has them.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._said = 0
        self._hides = False
        self._debugging = debugging()  # asked here: in the thread that reads the log, Click knows no command

    def lines(self, sent: Iterable[str]) -> None:
        """Say those lines of one sending of the log that are new, without the colours of the server's terminal."""
        for number, line in enumerate(map(without_colours, sent), 1):
            if number <= self._said:
                continue
            self._said = number
            self._hides = self._hides or _TRACEBACK in line if line.startswith("    ") else bool(_FAILED.search(line))
            if not self._hides or self._debugging:
                self._say(line.rstrip("\n"))


class NewestRound:
    """Says what it is given, and keeps the newest round's line: all that is known here of a deployed run's figures."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.line = ""

    def __call__(self, text: str) -> None:
        """Say one line of the log."""
        if found := _ROUND.search(text):
            self.line = found[0].rstrip()
        self._say(text)


@contextlib.contextmanager
def _log(submission: Submission, shown: NewLines) -> Iterator[threading.Thread]:
    stream = submission.follow()
    reader = threading.Thread(target=_read, args=(stream.stdout, shown), daemon=True)
    try:
        reader.start()
        yield reader
    finally:
        stream.kill()  # also if Ctrl-C comes while the reader starts
        stream.wait()
        if reader.is_alive():
            reader.join()


def _read(stream: TextIO, shown: NewLines) -> None:
    with stream:  # closed by its reader alone, which may begin only after Ctrl-C has ended the process
        shown.lines(stream)
