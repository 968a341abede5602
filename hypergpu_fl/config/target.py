"""When a run has reached what it was started for, as ``"loss <= 1.88"`` or ``"accuracy >= 0.9"``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

_FORM: Final = re.compile(r"\s*([A-Za-z_][\w./-]{0,63})\s*(<=|>=|<|>)\s*([-+.\deE]{1,32})\s*")
_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on one figure of the evaluation."""

    metric: str
    comparison: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``"<metric> <comparison> <number>"``.

        Raises
        ------
        ValueError
            If ``text`` has another form.
        """
        match = _FORM.fullmatch(text)
        try:
            if match and math.isfinite(value := float(match[3])):
                return cls(match[1], match[2], value)
        except ValueError:
            pass
        raise ValueError("must be empty, or a metric, one of <=, >=, < and >, and a number, as in 'loss <= 1.88'")

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.value:g}"

    def is_reached(self, figures: Mapping[str, float]) -> bool:
        """Whether the figure is within the bound; a figure that is missing or no number is not."""
        return self.metric in figures and _COMPARE[self.comparison](figures[self.metric], self.value)
