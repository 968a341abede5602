"""How a message says how many of a thing there are."""

from __future__ import annotations


def amount(count: int, thing: str) -> str:
    """``"1 round"``, ``"2 rounds"``, ``"1,000 replies"``: ``thing`` is the singular of a regular noun."""
    if count == 1:
        return f"1 {thing}"
    plural = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{count:,} {plural}"
