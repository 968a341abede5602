"""Whatever records nodes send as hellos and replies: no exception leaves the strategy, no state is not finite."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from strategy_grid import LAYOUT, Links, reply_with
from strategy_runs import build, play, trainers

from strategies import wire
from strategies.arrivals import VirtualArrivals

RECORDS = [wire.METRICS, wire.LINK, wire.TIMING, wire.HELLO, wire.CONTRIBUTION, wire.DEVICE, wire.IDENTITY, wire.UNFIT]
KEYS = st.one_of(
    st.sampled_from(
        sorted({*wire.link.DOMAINS, *wire.reply.DOMAINS, *wire.hello.DOMAINS, wire.ADDRESS, wire.CAUSE, "metric.x"})
    ),
    st.text(max_size=8),
)
EDGES = st.sampled_from(
    [0.0, -0.0, 5e-324, 1e-300, 1.0, 1e3, 1e12, 1e19, 1e300, 1.8e308, -1.0, -1e300, float("nan"), float("inf"), 2**62]
)
NUMBERS = st.one_of(EDGES, st.floats(width=64), st.integers(-(2**63), 2**63 - 1), st.lists(st.floats(), max_size=3))
TEXTS = st.one_of(st.text(), st.binary(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats())
VALUES = st.one_of(EDGES, st.floats(-10, 10, width=32))


@st.composite
def records(draw: st.DrawFn) -> RecordDict | Error:
    """A hello or a reply: nearly whole, or anything at all."""
    if draw(st.integers(0, 15)) == 0:
        return Error(code=draw(st.integers(0, 99)), reason=draw(st.text()))
    made: dict[str, Any] = {}
    if draw(st.booleans()):
        values = np.array(draw(st.lists(VALUES, min_size=LAYOUT.size, max_size=LAYOUT.size)), np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            made.update(reply_with(values.astype(np.float32)).items())
        hello = {wire.PARTITION: draw(st.integers(0, 6)), wire.EXAMPLES: draw(st.integers(0, 10**13))}
        made[wire.HELLO] = MetricRecord(hello)
    for name in draw(st.lists(st.sampled_from(RECORDS), unique=True, max_size=3)):
        if draw(st.booleans()):
            before = made.get(name)
            known = dict(before) if isinstance(before, MetricRecord) else {}
            made[name] = MetricRecord({**known, **draw(st.dictionaries(KEYS, NUMBERS, max_size=4))})
        else:
            made[name] = ConfigRecord(draw(st.dictionaries(KEYS, TEXTS, max_size=4)))
    if draw(st.integers(0, 3)) == 0:
        blob = np.frombuffer(draw(st.binary(max_size=64)), np.uint8)
        made[wire.UPDATE] = ArrayRecord({draw(st.sampled_from([wire.BLOB, "other"])): Array(blob)})
    return RecordDict(made)


def nothing_gets_out(answers: list[RecordDict | Error], mode: str, aggregation: str) -> None:
    grid = trainers(6)
    queue = list(answers)
    honest = dict(grid.nodes)

    def hostile(message: Message) -> Any:
        return queue.pop() if queue else honest[1000](message)

    grid.nodes[1000] = grid.nodes[1] = hostile
    grid.online.add(1)
    engine, diary = build(cohort=6, mode=mode, aggregation=aggregation)
    diary.alone = lambda update, model_P: float(np.abs(update.vector_P + model_P).mean(dtype=np.float64))
    with np.errstate(over="ignore"):
        engine.evaluated(2.0)
        play(
            engine,
            VirtualArrivals(grid, Links(lambda node, sent_s: 1.0)),
            4,
            lambda number, arrays: engine.evaluated(float(np.abs(engine.model.vector_P).mean())) if number else None,
        )
    assert len(diary.rounds) == 4 and np.isfinite(engine.model.vector_P).all()
    assert any(accepted.node_id not in (1, 1000) for outcome in diary.rounds for accepted in outcome.accepted)
    json.dumps(engine.saved()[0], allow_nan=False)


CASES = {
    "answers": st.lists(records(), min_size=2, max_size=6),
    "mode": st.sampled_from(["sync", "async"]),
    "aggregation": st.sampled_from(["mean", "median", "trimmed_mean", "krum", "norm_clipping"]),
}
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
@given(**CASES)
def test_no_hello_or_reply_raises_out_of_the_strategy_or_leaves_a_state_that_is_not_finite(
    answers: list[RecordDict | Error], mode: str, aggregation: str
) -> None:
    nothing_gets_out(answers, mode, aggregation)


@pytest.mark.slow
@pytest.mark.no_cover
@hypothesis_settings(max_examples=100_000, deadline=None, suppress_health_check=QUIET)
@given(**CASES)
def test_so_it_is_with_a_hundred_thousand_of_them(
    answers: list[RecordDict | Error], mode: str, aggregation: str
) -> None:
    nothing_gets_out(answers, mode, aggregation)
