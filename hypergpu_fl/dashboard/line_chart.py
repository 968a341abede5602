"""A line chart as SVG text, for documents that stand alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

Point = tuple[float, float | None]

WIDTH: Final = 560
HEIGHT: Final = 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 10, 10, 26
MOST_POINTS: Final = 1000  # of a line; more than there are pixels cannot be seen


def line_chart(
    title: str,
    lines: Sequence[tuple[str, Sequence[Point]]],
    *,
    x_words: Callable[[float], str],
    y_words: Callable[[float], str],
) -> str:
    """Draw named lines over a common x axis; points without a value are left out. Empty if there is nothing to draw.

    Lines get the classes ``l0`` to ``l5`` in their order, by which the style sheet colours them.
    """
    known = [(name, [(x, y) for x, y in points if y is not None]) for name, points in lines]
    everything = [point for _, points in known for point in points]
    if not everything:
        return ""
    x_low, x_high = _ends([x for x, _ in everything])
    y_ticks = _ticks(*_ends([y for _, y in everything]))
    y_low, y_high = min(y_ticks[0], *(y for _, y in everything)), max(y_ticks[-1], *(y for _, y in everything))

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)
        down = HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        height = place(x_low, tick).partition(",")[2]
        parts.append(f'<path class="grid" d="M{_LEFT} {height}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{height}" dy="4" text-anchor="end">{escape(y_words(tick))}</text>')
    for tick in _ticks(x_low, x_high):
        if x_low <= tick <= x_high:
            across = place(tick, y_low).partition(",")[0]
            words = escape(x_words(tick))
            parts.append(f'<text x="{across}" y="{HEIGHT - 6}" text-anchor="middle">{words}</text>')
    for index, (name, points) in enumerate(known):
        thinned = points[:: max(1, len(points) // MOST_POINTS)] + points[-1:]
        path = " ".join(place(x, y) for x, y in thinned)
        parts.append(f'<polyline class="l{index % 6}" points="{path}"><title>{escape(name)}</title></polyline>')
    return "".join([*parts, "</svg>"])


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1))


def _ticks(low: float, high: float) -> list[float]:
    """About five round values from below ``low`` to above ``high``."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
    first = math.floor(low / step)
    return [round((first + i) * step, 12) for i in range(math.ceil(high / step) - first + 1)]
