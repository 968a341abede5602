"""Figures and states in words for people: 30.2 Mbit/s, 0.006 MON, 12 s ago."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

WEI: Final = 10**18
_STEPS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
_SUFFICES: Final = ("", "k", "M", "G", "T")


def seconds(value: float | None) -> str:
    """A span of time: ``0.4 ms``, ``12 s``, ``3.5 min``."""
    if value is None:
        return "-"
    for length, unit in _STEPS:
        if value >= 2 * length:
            return f"{value / length:.3g} {unit}"
    if value >= 1:
        return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
    if value >= 1e-3:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.3g} µs" if value > 0 else "0 s"


def left(value: float) -> str:
    """An estimate of the time that is left, in whole units: ``7 min``."""
    for length, unit in _STEPS:
        if value >= 2 * length:
            return f"{value / length:.0f} {unit}"
    return f"{value:.0f} s"


def size(value: float | None) -> str:
    """Bytes in decimal units."""
    return "-" if value is None else _scaled(value, "B")


def rate(value: float | None) -> str:
    """Bits a second."""
    return "-" if value is None else _scaled(value, "bit/s")


def share(value: float | None) -> str:
    """A part of 1 in per cent; one too small to matter is not written with an exponent."""
    if value is None:
        return "-"
    return f"{100 * value:.3g} %" if value <= 0 or value >= 1e-5 else "<0.001 %"


def number(value: float | None) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:.4g}"


def money(wei: int | None, currency: str = "MON") -> str:
    """Wei in the chain's coin, with three significant digits and no exponent; None where no chain pays."""
    if wei is None:
        return "-"
    coins = wei / WEI
    if wei == 0 or coins >= 100:
        return f"{coins:,.0f} {currency}"
    digits = max(0, 2 - math.floor(math.log10(coins)))
    text = f"{coins:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {currency}"


def health(node: Mapping[str, Any], *, now_s: float) -> tuple[str, str]:
    """A node's state, and the reason for it.

    Parameters
    ----------
    node : Mapping
        Its row of the registry.
    now_s : float
        Seconds since the epoch.
    """
    failed, why = node["failures_in_a_row"], node["last_failure"]
    if node["status"] == "excluded":
        left_s = max(0.0, (node["excluded_until_s"] or now_s) - now_s)
        return "excluded", f"shut out for {seconds(left_s)} more after repeated failures; the last: {why or 'unknown'}"
    if node["status"] == "offline":
        seen_s = node["heartbeat_s"]
        return "offline", f"not connected; last seen {seconds(now_s - seen_s)} ago" if seen_s else "not connected"
    if failed:
        return "suspect", f"its last {'work' if failed == 1 else f'{failed} works'} failed: {why or 'unknown'}"
    if not node["successes"]:
        return "joining", "it said who it is, and no update of its counted yet"
    return "sound", "its last update counted"


def _scaled(value: float, unit: str) -> str:
    for suffix in _SUFFICES:
        if abs(value) < 999.5 or suffix == _SUFFICES[-1]:
            return f"{value:.3g} {suffix}{unit}"
        value /= 1000
    raise AssertionError("unreachable: the last suffix takes everything")
