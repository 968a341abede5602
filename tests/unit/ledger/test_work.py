"""Work that is paid by itself goes by the server's clock and its own orders."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.ledger.work import credited_ms

orders = st.lists(st.tuples(st.integers(1, 1000), st.one_of(st.none(), st.floats(0, 1e6))), max_size=20)


@given(orders)
def test_nobody_is_credited_more_time_than_passed(made: list[tuple[int, float | None]]) -> None:
    steps, seconds = [count for count, _ in made], [lasted for _, lasted in made]
    for credited, lasted in zip(credited_ms(steps, seconds), seconds, strict=True):
        assert 0 <= credited <= 1000 * (lasted or 0) + 1


def test_dawdling_is_not_paid_and_an_answer_at_once_is_hardly() -> None:
    assert credited_ms([10, 10, 20, 10, 10], [5.0, 5.0, 10.0, 50.0, 0.01]) == [5000, 5000, 10_000, 5000, 10]
