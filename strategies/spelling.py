"""What somebody who wrote an unknown name probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing if no known word is close."""
    near = nearest(word, known)
    return f"; did you mean {near!r}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, ignoring case: the closest one, else one that contains ``word``."""
    by_lower = {each.lower(): each for each in known}
    lower = word.lower()
    near = get_close_matches(lower, by_lower, n=1) or [each for each in by_lower if len(lower) > 2 and lower in each]
    return by_lower[near[0]] if near else None
