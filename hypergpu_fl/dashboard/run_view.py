"""A run for viewers: its log and its books, followed as they grow."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from hypergpu_fl.dashboard.books import BooksView, Commit, Earned
from hypergpu_fl.dashboard.fold import Closed, Happening, Round, Work, closed, fold
from hypergpu_fl.dashboard.segments import LogGone, Segments
from hypergpu_fl.dashboard.whole import check_whole
from hypergpu_fl.dashboard.words import health
from hypergpu_fl.errors import LedgerError
from hypergpu_fl.files import is_held
from hypergpu_fl.output import by_number
from hypergpu_fl.runs import BOOKS_LOCK, COMMAND_LOCK

HISTORY: Final = 200  # rounds of a node that are told
RECENT: Final = 20  # rounds over which utilisation and shares are computed
SILENT_S: Final = 300.0  # without a new line in the log, a run is no longer called running after this time
_LOOKED_S: Final = 5.0  # without a new line for this time, it is looked whether anybody writes the books
_HEAD: Final = 1 << 16  # bytes read of the report's head and tail: a row for each node and round may make it huge

Row = dict[str, Any]


class RunView:
    """Follows one run; safe to use from several threads.

    Parameters
    ----------
    folder : Path
        The run's.
    clock : callable
        Seconds since the epoch.

    Attributes
    ----------
    epoch : int
        Grows whenever the log was cut back or replaced, so that what was told before no longer holds.
    rounds : list of dict
        One row for each closed round, in order.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.epoch = 0
        self._clock = clock
        self._lock = threading.RLock()
        self._begin()

    def _begin(self) -> None:
        self.rounds: list[Row] = []
        self._log = Segments(self.folder / "events.jsonl")
        self._books = BooksView(self.folder / "run.db")
        self._recent: deque[Round] = deque(maxlen=RECENT)
        self._open: Round | None = None

    def poll(self, *, whole: bool = False) -> bool:
        """Read what was added; whether anything was.

        A run that lacks rounds which its report tells of is refused; if ``whole``, also a log that lacks rounds in the
        books. A copy that is brought up to date file by file, while the run goes on, lacks some for a while.

        Raises
        ------
        LedgerError
            If log or database hold what no run writes, or lack rounds. Nothing of them is shown then, rather than a
            part.
        """
        with self._lock:
            try:
                # The log last: a round is logged before it is booked, and booked before it is reported.
                reported = self._reported()
                booked = self._books.refresh()
                grown = self._log.grow()
                if grown:
                    self._take_rounds()
                if booked:
                    self._take_books()
                check_whole(self.folder, len(self.rounds), self._books.sealed, reported, books=whole)
                return grown or booked
            except LogGone:
                self._read_anew()
                return True
            except (OSError, sqlite3.Error, ValueError, LookupError, TypeError, AttributeError) as error:
                self._read_anew()
                raise LedgerError(
                    f"{self.folder} cannot be shown: {type(error).__name__}: {error}"[:300],
                    "bring its events.jsonl and run.db back from a copy, or remove the folder",
                ) from error

    def _read_anew(self) -> None:
        self._books.close()
        self.epoch += 1
        self._begin()

    def close(self) -> None:
        """Release the run's files."""
        with self._lock:
            self._books.close()

    def summary(self) -> Row:
        """What the run is, how far it is, and its latest figures."""
        with self._lock:
            settings, state = self.settings(), self._state()
            training = settings.get("training", {})
            last = self.rounds[-1] if self.rounds else {}
            total = training.get("rounds")
            session = self._books.session
            return {
                "run": self.folder.name,
                "epoch": self.epoch,
                **state,
                "task": training.get("task")
                or " ".join(str(training[key]) for key in ("dataset", "model_architecture") if training.get(key)),
                "clock": "virtual" if self._simulated() else "wall",
                "rounds": len(self.rounds),
                "rounds_wanted": total,
                "eta_s": self._eta_s(total) if state["state"] == "running" else None,
                "seconds": last.get("seconds"),
                "loss": last.get("loss"),
                "metrics": last.get("metrics", {}),
                "nodes": len(self._log.names),
                "bytes_up": sum(row["bytes_up"] for row in self.rounds),
                "bytes_down": sum(row["bytes_down"] for row in self.rounds),
                "counted": sum(row["arrived"] for row in self.rounds),
                "late": sum(row["late"] for row in self.rounds),
                "refused": sum(row["refused"] for row in self.rounds),
                "earned_wei": self.paid(sum(pay.wei for pay in self._books.pay.values())),
                "session": session and {**asdict(session), "budget": str(session.budget)},
                "open": self._open
                and {
                    "round": self._open.number,
                    "started_s": self._open.started_s,
                    "deadline_s": self._open.deadline_s,
                    "sent": len(self._open.works),
                    "answered": sum(work.verdict != "working" for work in self._open.works),
                },
            }

    def settings(self) -> Row:
        """The run's settings, as a tree: those that it began with, and what resuming changed."""
        tree: Row = {}
        for name in ("config.json", "resumed.json"):
            try:
                for section, values in json.loads((self.folder / name).read_bytes()).items():
                    tree.setdefault(section, {}).update(values)
            except (OSError, ValueError, AttributeError, TypeError):  # not there, or not ours: shown without
                continue
        return tree

    def versions(self) -> Row:
        """Versions that the run's report names; none before the report is written."""
        try:
            with (self.folder / "report.json").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _HEAD))
                tail = file.read()
            found = tail.rindex(b'\n "versions": ')
            return dict(json.loads(b"{" + tail[found:])["versions"])
        except (OSError, ValueError, TypeError):
            return {}

    def nodes(self) -> list[Row]:
        """One row for each node: link, work, health with its reason in words, and pay."""
        with self._lock:
            known = {node["name"]: node for node in self._books.nodes}
            clock_s = self._run_clock_s(self._clock())
            now_s = self._registry_now_s()
            latest = self._latest_works()
            span_s = (self._recent[-1].ended_s or 0.0) - self._recent[0].started_s if self._recent else 0.0
            names = sorted({*known, *self._log.names}, key=by_number)
            return [self._node(name, known.get(name), latest.get(name, []), span_s, now_s, clock_s) for name in names]

    def round(self, round: int) -> Round | None:
        """Any round as it was, or the open one; None if it has not begun."""
        with self._lock:
            if self._open is not None and self._open.number == round:
                return self._open
            if not 1 <= round <= len(self._log.starts):
                return None
            try:
                return fold(round, self._log.lines(round), self._log.names)
            except LogGone:
                return None

    def pay_upto(self, round: int) -> dict[str, int]:
        """Name -> wei that the node had earned by the end of a round."""
        with self._lock:
            names = {node["address"]: node["name"] for node in self._books.nodes}
            return {names.get(address, address): pay.wei for address, pay in self._books.pay_upto(round).items()}

    def history_of(self, node: str) -> list[Row]:
        """What a node did in the last ``HISTORY`` rounds."""
        with self._lock:
            last = len(self.rounds)
            return self._books.rows_of(node, first=max(1, last - HISTORY + 1), last=last)

    def happenings(self, *, before: int | None = None, rounds: int = 50) -> list[Happening]:
        """What happened in the ``rounds`` rounds before round ``before``, newest first."""
        with self._lock:
            last = len(self._log.starts) if before is None else min(before - 1, len(self._log.starts))
            found: list[Happening] = []
            for round in range(last, max(0, last - rounds), -1):
                seen = self.round(round)
                found += reversed(seen.happenings if seen else [])
            if 0 <= last <= rounds:
                found += reversed(fold(0, self._log.opening(), self._log.names).happenings)
            return found

    def _take_rounds(self) -> None:
        """Read new rounds: closed ones by their last lines, and the newest ones completely."""
        begun = len(self._log.starts)
        for round in range(len(self.rounds) + 1, begun + 1):
            end = closed(self._log.closing(round))
            if end is None:
                break
            self.rounds.append(self._row(end))
            if round > begun - RECENT - 1:
                self._recent.append(fold(round, self._log.lines(round), self._log.names))
        if self.rounds and len(self.rounds) == begun and self.rounds[-1]["loss"] is None:
            end = closed(self._log.closing(begun))  # a round's loss is measured after the round is closed
            self.rounds[-1]["loss"] = end and end.loss
        still_open = begun > len(self.rounds)
        self._open = fold(begun, self._log.lines(begun), self._log.names) if still_open else None

    def _row(self, end: Closed) -> Row:
        row = {
            "round": end.round,
            "seconds": end.ended_s,
            "took_s": end.ended_s - end.started_s,
            "loss": end.loss,
            "metrics": self._books.metrics.get(end.round, {}),
            "selected": end.selected,
            "arrived": end.arrived,
            "late": end.late,
            "refused": self._books.refused.get(end.round, 0),
            "bytes_up": end.bytes_up,
            "bytes_down": end.bytes_down,
            "model": end.model,
            "rolled_back": end.rolled_back,
        }
        return row | asdict(self._books.commits.get(end.round) or Commit(""))

    def _take_books(self) -> None:
        """Bring rows up to date with commits, refusals and metrics, which are written after a round is closed."""
        for row in reversed(self.rounds):
            commit = self._books.commits.get(row["round"])
            metrics = self._books.metrics.get(row["round"], {})
            row.update(metrics=metrics, refused=self._books.refused.get(row["round"], 0))
            if commit:
                row.update(asdict(commit))

    def _latest_works(self) -> dict[str, list[Work]]:
        """Node -> its works of the recent rounds and of the open one, in order."""
        works: dict[str, list[Work]] = {}
        for seen in (*self._recent, *([self._open] if self._open else [])):
            for work in seen.works:
                works.setdefault(work.node, []).append(work)
        return works

    def _node(
        self, name: str, known: Row | None, works: list[Work], span_s: float, now_s: float, clock_s: float
    ) -> Row:
        state, reason = health(known, now_s=now_s) if known else ("joining", "no round has ended since it came")
        device = known["device"] if known else {}
        earned = self._books.pay.get(known["address"], Earned()) if known else Earned()
        done = [work for work in works if work.verdict in ("counted", "late")]
        busy_s = sum(work.compute_s or 0.0 for work in works)
        last = works[-1] if works else None
        tries = known["tries"] if known else 0
        return {
            "name": name,
            "state": state,
            "reason": reason,
            **{key: known and known[key] for key in _FROM_REGISTRY},
            "device": str(device.get("gpu") or device.get("device") or device.get("cpu") or ""),
            "seen_ago_s": max(0.0, now_s - known["last_seen_s"]) if known and known["last_seen_s"] else None,
            "success_rate": known["successes"] / tries if known and tries else None,
            "utilisation": min(1.0, busy_s / span_s) if span_s > 0 and works else None,
            "steps": next((work.steps for work in reversed(works) if work.steps is not None), None),
            "staleness": done[-1].staleness if done else None,
            "weight": sum(work.weight or 0.0 for work in done) / len(self._recent) if self._recent else None,
            "train_loss": done[-1].train_loss if done else None,
            "phase": _phase(works, clock_s) if self._open else "waiting",
            "verdict": last and last.verdict,
            "verdict_reason": last.reason if last else "",
            "wei": self.paid(earned.wei),
            "rounds_paid": earned.rounds,
        }

    def paid(self, wei: int) -> str | None:
        """Wei as JSON can hold it; None where no chain pays what the books share out."""
        session = self._books.session
        return None if session is not None and session.chain_id == 0 else str(wei)

    def _run_clock_s(self, now_s: float) -> float:
        """Seconds on the run's clock: the time of its newest line and, on the wall clock, the time since then."""
        last_s = self._log.last_s
        if self._simulated():
            return last_s
        return last_s + max(0.0, now_s - (_changed_s(self.folder / "events.jsonl") or now_s))

    def _registry_now_s(self) -> float:
        """Now, as the registry counts: in simulation its seconds follow virtual time, up to its newest entry."""
        newest_s = max((node["heartbeat_s"] or 0.0 for node in self._books.nodes), default=0.0)
        return newest_s if self._simulated() and newest_s else self._clock()

    def _simulated(self) -> bool:
        return bool(self.settings().get("network", {}).get("enable_simulation", True))

    def _state(self) -> Row:
        """The run's state in a word, when it began and last changed, and why it failed."""
        log_s, report_s = _changed_s(self.folder / "events.jsonl"), _changed_s(self.folder / "report.json")
        row: Row = {"began_s": _changed_s(self.folder / "config.json"), "changed_s": log_s, "failure": None}
        quiet_s, lock = self._clock() - (log_s or 0.0), self.folder / BOOKS_LOCK
        deserted = quiet_s > _LOOKED_S and lock.is_file() and not is_held(lock)
        resumed_s = _changed_s(self.folder / "resumed.json") or 0.0
        if log_s and resumed_s > max(log_s, report_s or 0.0) and is_held(self.folder / COMMAND_LOCK):
            return row | {"state": "starting"}  # Flower is, and the server has not gone on yet
        if report_s is not None:
            head = self._head_of_report()
            copied = deserted and 0 < self._reported() >= len(self.rounds)  # in any order of the files
            if log_s is None or report_s >= log_s or copied:
                failure = re.search(rb'^ "failure": (".*"),?$', head, re.MULTILINE)
                status = re.search(rb'^ "status": "(\w+)"', head, re.MULTILINE)
                said = json.loads(failure[1]) if failure else None
                return row | {"state": status[1].decode() if status else "completed", "failure": said}
        if log_s is None:
            return row | {"state": "waiting"}
        if deserted and not is_held(self.folder / COMMAND_LOCK):  # else it is about to be taken up again
            return row | {"state": "broken off"}
        return row | {"state": "running" if quiet_s < SILENT_S else "silent"}

    def _head_of_report(self) -> bytes:
        try:
            with (self.folder / "report.json").open("rb") as file:
                return file.read(_HEAD)
        except FileNotFoundError:
            return b""

    def _reported(self) -> int:
        """Rounds that the run's report tells of; 0 before it is written."""
        told = re.search(rb'^ "rounds": (\d+)', self._head_of_report(), re.MULTILINE)
        return int(told[1]) if told else 0

    def _eta_s(self, total: int | None) -> float | None:
        """Estimate of the wall seconds that are left, from the mean length of the rounds so far."""
        began_s, log_s = _changed_s(self.folder / "config.json"), _changed_s(self.folder / "events.jsonl")
        if not total or not self.rounds or began_s is None or log_s is None:
            return None
        return max(0.0, (log_s - began_s) / len(self.rounds) * (total - len(self.rounds)))


_FROM_REGISTRY: Final = (
    *("address", "rtt_s", "jitter_s", "loss_rate", "uplink_bps", "downlink_bps", "quality", "codec", "bytes_up"),
    *("tries", "successes"),
)


def _changed_s(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _phase(works: list[Work], clock_s: float) -> str:
    """What a node is doing now, estimated from how long the parts of its last reply took."""
    last = works[-1] if works else None
    if last is None or last.verdict != "working":
        return "waiting"
    before = next((work for work in reversed(works[:-1]) if work.compute_s is not None), None)
    if before is None:
        return "working"
    away_s = clock_s - last.sent_s - (before.download_s or 0.0)
    if away_s < 0:
        return "downloading"
    return "training" if away_s < (before.compute_s or 0.0) else "uploading"
