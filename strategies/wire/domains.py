"""The one door for numbers and texts from nodes: what each may be, in its unit.

A node is not trusted. A number outside its domain is never computed with: a claim about work makes its reply refused, a
finding about the link is left out, since a probe may fail on an honest node as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flwr.app import RecordDict

from strategies.errors import Reason, Refused

MOST_NUMBERS: Final = 128  # of one record
LONGEST_NAME: Final = 128  # characters of a number's or a text's name
MOST_TEXTS: Final = 64  # of one record
LONGEST_TEXT: Final = 256  # characters of what a node says of its device
LARGEST_REASON: Final = 500  # characters of what a node says of its failure
LONGEST_IDENTITY: Final = 2**20  # characters of all that its task is told by; a layout of 10,000 arrays takes 600,000


@dataclass(frozen=True, slots=True)
class Domain:
    """Numbers from ``least`` to ``most``, both included, in ``unit``; ``whole`` ones only where it says so.

    ``reason``: why one outside is refused.
    """

    least: float
    most: float
    unit: str
    whole: bool = False
    reason: Reason = Reason.MALFORMED

    def holds(self, value: float) -> bool:
        """Whether ``value`` is one of them; NaN never is."""
        return self.least <= value <= self.most and (not self.whole or float(value).is_integer())

    def check(self, name: str, value: float) -> float:
        """``value``. Raises ``Refused`` for one outside the domain."""
        if self.holds(value):
            return value
        kind = "whole number" if self.whole else "number"
        raise Refused(self.reason, f"{name} is {value:.6g}, no {kind} of {self.unit} in {self.least:g}..{self.most:g}")


# A link slower than 1 kbit/s, or one of more than 1 Tbit/s, is a mistake or a lie.
LINK: Final[Mapping[str, Domain]] = {
    "rtt-s": Domain(1e-7, 60.0, "seconds"),
    "jitter-s": Domain(0.0, 60.0, "seconds"),
    "loss-rate": Domain(0.0, 1.0, "lost packets a packet"),
    "uplink-bps": Domain(1e3, 1e12, "bits a second"),
    "downlink-bps": Domain(1e3, 1e12, "bits a second"),
}
HELLO: Final[Mapping[str, Domain]] = {
    "partition-id": Domain(0, 2**31 - 1, "shares", whole=True),
    "num-examples": Domain(0, 2**40, "examples", whole=True),
}
WORK: Final[Mapping[str, Domain]] = {
    "num-examples": Domain(0, 2**40, "examples", whole=True),
    "samples": Domain(0, 2**40, "samples", whole=True),
    "steps": Domain(0, 2**31, "steps", whole=True),
    "count": Domain(0, 2**53, "units"),
    "compute-s": Domain(0, 1e6, "seconds"),
    # Beyond these, training has diverged; whoever honestly reports it is told what to do against that.
    "loss": Domain(-1e9, 1e9, "loss", reason=Reason.NON_FINITE),
    "squared-loss": Domain(0, 1e18, "squared loss", reason=Reason.NON_FINITE),
}


def checked(numbers: Mapping[str, float], domains: Mapping[str, Domain]) -> None:
    """Raise ``Refused`` for the first number that is outside its domain; those without one may be any."""
    for name, domain in domains.items():
        if name in numbers:
            domain.check(name, numbers[name])


def possible(numbers: Mapping[str, float], domains: Mapping[str, Domain]) -> dict[str, float]:
    """Those of ``numbers`` that have a domain and lie in it."""
    return {name: value for name, value in numbers.items() if name in domains and domains[name].holds(value)}


def finite_scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a record; lists are left out.

    Raises ``Refused`` for more of them than ``MOST_NUMBERS``, or names longer than ``LONGEST_NAME``.
    """
    if len(record) > MOST_NUMBERS:
        raise Refused(Reason.TOO_LARGE, f"{len(record)} numbers in one record, at most {MOST_NUMBERS} are read")
    if (longest := max(map(len, record), default=0)) > LONGEST_NAME:
        raise Refused(Reason.TOO_LARGE, f"a name of {longest} characters, at most {LONGEST_NAME} are read")
    scalars = {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
    return {name: value for name, value in scalars.items() if math.isfinite(value)}


def numbers(content: RecordDict, record: str) -> dict[str, float]:
    """The finite scalars of a MetricRecord; empty when the record is missing. See ``finite_scalars``."""
    found = content.metric_records.get(record)
    return finite_scalars(found) if found else {}


def device(record: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """What a node says of its device, cut to ``MOST_TEXTS`` entries with texts of ``LONGEST_TEXT`` characters."""
    kept: dict[str, str | int | float | bool] = {}
    for name in sorted(record)[:MOST_TEXTS]:
        value = record[name]
        if len(name) > LONGEST_NAME:
            continue
        if isinstance(value, str):
            kept[name] = _printable(value[:LONGEST_TEXT])
        elif isinstance(value, int | float) and math.isfinite(value):
            kept[name] = value
    return kept


def identity(record: Mapping[str, Any]) -> dict[str, str]:
    """What a node's task is told by. Raises ``Refused`` for more of it than any task has."""
    texts = {name: value for name, value in record.items() if isinstance(value, str)}
    length = sum(len(name) + len(value) for name, value in texts.items())
    if len(record) > MOST_TEXTS or length > LONGEST_IDENTITY:
        raise Refused(Reason.TOO_LARGE, f"{len(record)} texts of {length} characters tell its task; that is too much")
    return texts


def _printable(text: str) -> str:
    """Half of a surrogate pair cannot be written to a database, nor be sent."""
    return text.encode("utf-8", "replace").decode("utf-8")


def malformed(what: str, error: Exception) -> Refused:
    """The refusal that stands for whatever hostile bytes made a reader raise."""
    return Refused(Reason.MALFORMED, f"{what}: {type(error).__name__}: {error}"[:LARGEST_REASON])
