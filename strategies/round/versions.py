"""The versions of the model, from which of them an update may still start, and to which of them a roll-back returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from strategies.errors import Reason, Refused

KEPT_VERSIONS = 200  # updates against older versions are useless; a version may last only a second


@dataclass
class Versions:
    """Numbers of the model's versions.

    Attributes
    ----------
    version : int
        The latest; every step and every roll-back adds one.
    good : int, optional
        The version before the last step, or the one to which the model has returned since.
    best : int, optional
        The version with the least held-out loss.
    back : bool
        Whether no version has been sound since the last roll-back.
    disowned : list of (int, int)
        Versions after the first, up to the second, were rolled back; as far back as an update may start from.
    model, norm, sketch : str, float, tuple of float
        Hash of the latest version, in hex, its L2 norm, and the sketch of its values.
    """

    version: int = 0
    good: int | None = None
    best: int | None = None
    back: bool = False
    disowned: list[tuple[int, int]] = field(default_factory=list)
    model: str = ""
    norm: float = 0.0
    sketch: tuple[float, ...] = ()

    def published(self, version: int, model: str, norm: float, sketch: tuple[float, ...]) -> None:
        """Make ``version`` the latest."""
        self.version, self.model, self.norm, self.sketch = version, model, norm, sketch

    def way_back(self, *, spoiled: bool) -> int | None:
        """The version to go back to; None if there is none.

        It is the one before the last step, which costs least. If that one is ``spoiled`` already, or the model exploded
        again from where the last roll-back left it, it is the best version: slow poisoning makes each version a little
        worse than the one before, and going back by one would undo only the last step.
        """
        first, second = (self.best, self.good) if spoiled or self.back else (self.good, self.best)
        return second if first is None else first

    def disown(self, to: int) -> None:
        """Disown the versions after ``to``, to which the model returns; none of them is one to go back to any more."""
        oldest = self.version - KEPT_VERSIONS
        self.good, self.best = to, self.best if self.best is not None and self.best <= to else None
        self.disowned = [span for span in self.disowned if span[1] >= oldest] + [(to, self.version)]
        self.back = True

    def staleness(self, base: int) -> int:
        """Versions since ``base``. Raises ``Refused`` for a base that is unknown, too old or rolled back."""
        oldest = self.version - KEPT_VERSIONS
        if not oldest <= base <= self.version:
            raise Refused(
                Reason.UNKNOWN_BASE, f"base {base}, the server keeps {oldest}..{self.version}; full model next round"
            )
        if any(after < base <= upto for after, upto in self.disowned):
            raise Refused(Reason.UNKNOWN_BASE, f"base {base} was rolled back; full model next round")
        return self.version - base

    def state(self) -> dict[str, Any]:
        """All of it as JSON-able values."""
        return {**asdict(self), "disowned": [version for span in self.disowned for version in span]}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Versions:
        """Inverse of ``state``."""
        versions = iter(state["disowned"])
        return cls(
            **{**state, "disowned": list(zip(versions, versions, strict=True)), "sketch": tuple(state["sketch"])}
        )
