"""The versions of the model, and from which of them an update may still start."""

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
        The version before the last step, to which a roll-back returns.
    disowned : list of (int, int)
        Versions after the first, up to the second, were rolled back; as far back as an update may start from.
    model, norm : str, float
        Hash of the latest version, in hex, and its L2 norm.
    """

    version: int = 0
    good: int | None = None
    disowned: list[tuple[int, int]] = field(default_factory=list)
    model: str = ""
    norm: float = 0.0

    def published(self, version: int, model: str, norm: float) -> None:
        """Make ``version`` the latest."""
        self.version, self.model, self.norm = version, model, norm

    def disown(self) -> int | None:
        """Disown the versions after the last good one, and return that; None if there is none."""
        if self.good is not None:
            oldest = self.version - KEPT_VERSIONS
            self.disowned = [span for span in self.disowned if span[1] >= oldest] + [(self.good, self.version)]
        return self.good

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
        return cls(**{**state, "disowned": list(zip(versions, versions, strict=True))})
