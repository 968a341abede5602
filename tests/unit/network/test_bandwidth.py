"""The bottleneck's rate, found again from simulated transfers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.network.bandwidth import bottleneck_bps

SEGMENT = 1448


def transfer(rate_bps: float, rtt_s: float, total_bytes: int, streams: int = 4) -> list[tuple[float, int]]:
    """Acknowledgements of a slow start over an empty bottleneck: flights double until they fill the path."""
    step_s = 8 * SEGMENT / rate_bps
    progress, acked = [(0.0, 0)], 0
    flight, sent_s, free_s = 10 * streams, 0.0, 0.0
    while acked < total_bytes:
        for _ in range(flight):
            free_s = max(free_s, sent_s) + step_s
            acked += SEGMENT
            progress.append((free_s + rtt_s, acked))
        sent_s += rtt_s
        flight *= 2
    return progress


@given(
    rate_bps=st.floats(5e5, 1e9),
    rtt_s=st.floats(0.001, 0.3),
    total=st.integers(200_000, 2_000_000),
)
def test_the_rate_is_found_whatever_the_round_trip(rate_bps: float, rtt_s: float, total: int) -> None:
    assert bottleneck_bps(transfer(rate_bps, rtt_s, total), rtt_s=rtt_s) == pytest.approx(rate_bps, rel=0.1)


@given(stall_s=st.floats(0.001, 0.02), at=st.floats(0.55, 0.9))
def test_a_stall_of_the_observer_does_not_move_it(stall_s: float, at: float) -> None:
    progress = transfer(50e6, 0.05, 1_000_000)
    from_s = progress[int(at * len(progress))][0]
    late = [(max(t, from_s + stall_s) if t >= from_s else t, b) for t, b in progress]
    seen: dict[float, int] = dict(late)
    assert bottleneck_bps(sorted(seen.items()), rtt_s=0.05) == pytest.approx(50e6, rel=0.15)


@pytest.mark.parametrize(
    "progress", [[], [(0.0, 0)], [(0.0, 0), (1.0, 10**6)], [(0.0, 0), (0.1, 100), (0.2, 200), (0.3, 300)]]
)
def test_too_little_tells_nothing(progress: list[tuple[float, int]]) -> None:
    assert bottleneck_bps(progress, rtt_s=0.1) is None
