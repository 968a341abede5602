"""The one door for numbers and texts from nodes. Each record's file says which values are possible, in which unit.

A node is not trusted, so nothing computes with a number outside its domain. A claim about work that lies outside makes
the reply refused; a finding about the link is dropped, since a probe may also fail on an honest node.
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
LONGEST_IDENTITY: Final = 2**20  # characters of a whole task identity; a layout of 10,000 arrays takes 600,000


@dataclass(frozen=True, slots=True)
class Domain:
    """Numbers from ``least`` to ``most``, both included, in ``unit``; only whole numbers if ``whole``.

    ``reason``: why a number outside is refused.
    """

    least: float
    most: float
    unit: str
    whole: bool = False
    reason: Reason = Reason.MALFORMED

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies in the domain; NaN never does."""
        return self.least <= value <= self.most and (not self.whole or float(value).is_integer())

    def check(self, name: str, value: float) -> float:
        """``value``. Raises ``Refused`` for one outside the domain."""
        if self.holds(value):
            return value
        kind = "whole number" if self.whole else "number"
        raise Refused(self.reason, f"{name} is {value:.6g}, no {kind} of {self.unit} in {self.least:g}..{self.most:g}")


def check_domains(numbers: Mapping[str, float], domains: Mapping[str, Domain]) -> None:
    """Raise ``Refused`` for the first number outside its domain; numbers without a domain may have any value."""
    for name, domain in domains.items():
        if name in numbers:
            domain.check(name, numbers[name])


def possible(numbers: Mapping[str, float], domains: Mapping[str, Domain]) -> dict[str, float]:
    """The numbers that have a domain and lie in it."""
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
            kept[name] = encodable(value[:LONGEST_TEXT])
        elif isinstance(value, int | float) and math.isfinite(value):
            kept[name] = value
    return kept


def identity(record: Mapping[str, Any]) -> dict[str, str]:
    """The identity of a node's task. Raises ``Refused`` if it is larger than any task's."""
    texts = {name: value for name, value in record.items() if isinstance(value, str)}
    length = sum(len(name) + len(value) for name, value in texts.items())
    if len(record) > MOST_TEXTS or length > LONGEST_IDENTITY:
        raise Refused(Reason.TOO_LARGE, f"{len(record)} texts of {length} characters tell its task; that is too much")
    return texts


def encodable(text: str) -> str:
    """``text`` without lone surrogates, which can neither be written to a log or a database nor sent."""
    return text.encode("utf-8", "replace").decode("utf-8")


def malformed(what: str, error: Exception) -> Refused:
    """The refusal for whatever hostile bytes made a reader raise."""
    return Refused(Reason.MALFORMED, encodable(f"{what}: {type(error).__name__}: {error}"[:LARGEST_REASON]))
