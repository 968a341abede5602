"""Whatever a node replies: it is refused with its reason, and the round goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from strategy_grid import LAYOUT, Links, reply_with
from strategy_runs import build, play, trainers

from strategies import wire
from strategies.arrivals import VirtualArrivals
from strategies.errors import Reason
from strategies.event_log import FILE, EventLog
from strategies.round.replay import replay


def good() -> RecordDict:
    return reply_with(np.ones(LAYOUT.size, np.float32))


def with_blob(array: np.ndarray) -> RecordDict:
    return RecordDict({wire.UPDATE: ArrayRecord({wire.BLOB: Array(array)}), wire.METRICS: MetricRecord({})})


def with_arrays(**arrays: np.ndarray) -> RecordDict:
    return RecordDict({wire.UPDATE: ArrayRecord({name: Array(array) for name, array in arrays.items()})})


def raw_array(**changes: Any) -> RecordDict:
    array = Array(np.zeros(8, np.uint8))
    for name, value in changes.items():
        setattr(array, name, value)
    return RecordDict({wire.UPDATE: ArrayRecord({wire.BLOB: array})})


HOSTILE: dict[str, tuple[Callable[[], RecordDict | Error], Reason]] = {
    "an error": (lambda: Error(code=2, reason="x" * 10_000), Reason.ERROR_REPLY),
    "an error that names a file whose name is not UTF-8": (lambda: Error(code=2, reason="\udc80"), Reason.ERROR_REPLY),
    "nothing": (RecordDict, Reason.MALFORMED),
    "an update that is metrics": (lambda: RecordDict({wire.UPDATE: MetricRecord({"a": 1.0})}), Reason.MALFORMED),
    "another array's name": (
        lambda: RecordDict({wire.UPDATE: ArrayRecord({"b": Array(np.zeros(1))})}),
        Reason.MALFORMED,
    ),
    "two arrays": (lambda: with_arrays(blob=np.zeros(8, np.uint8), c=np.zeros(1)), Reason.MALFORMED),
    "floats for bytes": (lambda: with_blob(np.zeros(LAYOUT.size, np.float32)), Reason.MALFORMED),
    "a matrix of bytes": (lambda: with_blob(np.zeros((4, 8), np.uint8)), Reason.MALFORMED),
    "an array that is none": (lambda: raw_array(data=b"not numpy at all"), Reason.MALFORMED),
    "an unknown serialiser": (lambda: raw_array(stype="pickle"), Reason.MALFORMED),
    "too few bytes": (lambda: with_blob(np.zeros(4 * LAYOUT.size - 1, np.uint8)), Reason.WRONG_MODEL),
    "one byte too many, of which 128 are numpy's header": (
        lambda: with_blob(np.zeros(4 * LAYOUT.size + wire.reply.HEADROOM_BYTES - 127, np.uint8)),
        Reason.TOO_LARGE,
    ),
    "not a number": (lambda: reply_with(np.full(LAYOUT.size, np.nan, np.float32)), Reason.NON_FINITE),
    "infinity": (lambda: reply_with(np.full(LAYOUT.size, np.inf, np.float32)), Reason.NON_FINITE),
    "a giant at first": (lambda: reply_with(np.full(LAYOUT.size, 1e3, np.float32)), Reason.NORM_OUTLIER),
    "a giant": (lambda: reply_with(np.full(LAYOUT.size, 1e12, np.float32)), Reason.NORM_OUTLIER),
    "the same again": (good, Reason.DUPLICATE),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_reply_is_refused_with_its_reason_and_the_round_goes_on(case: str, tmp_path: Path) -> None:
    answer, reason = HOSTILE[case]
    grid = trainers(6)
    honest = grid.nodes[1000]
    grid.nodes[1000] = lambda m: honest(m) if m.metadata.message_type == "query" else answer()
    engine, diary = build(cohort=6, mode="sync", quota=1.0, deadline_s=100.0)
    engine.log = EventLog(tmp_path / FILE, engine.state.rules)
    play(engine, VirtualArrivals(grid, Links(lambda node, sent_s: 1.0)), 6)
    engine.log.close()
    assert reason in diary.reasons
    details = [refused.detail for outcome in diary.rounds for refused in outcome.refused]
    assert all(detail and len(detail) <= 600 for detail in details)
    assert {r.node for o in diary.rounds for r in o.refused} == {"node-0"}
    assert engine.model.version == 6 and all(len(outcome.accepted) >= 5 for outcome in diary.rounds)
    found = replay((tmp_path / FILE).read_bytes().splitlines(keepends=True))
    assert found.difference is None and found.broken is None and found.rounds == 6


def test_updates_of_unusual_length_count_where_nobody_is_suspected() -> None:
    answer, _ = HOSTILE["a giant at first"]
    grid = trainers(6)
    honest = grid.nodes[1000]
    grid.nodes[1000] = lambda m: honest(m) if m.metadata.message_type == "query" else answer()
    engine, diary = build(cohort=6, mode="sync", quota=1.0, deadline_s=100.0, refuse_outliers=False)
    play(engine, VirtualArrivals(grid, Links(lambda node, sent_s: 1.0)), 1)
    assert not diary.reasons and len(diary.rounds[0].accepted) == 6


def test_what_an_attendant_does_not_admit_is_refused_and_recorded() -> None:
    engine, diary = build(cohort=4, mode="sync", quota=1.0)
    diary.refuse = lambda node_id: node_id == 1000
    play(engine, VirtualArrivals(trainers(4), Links(lambda node, sent_s: 1.0)), 3)
    assert diary.reasons and set(diary.reasons) == {Reason.NOT_ALLOWED}


junk = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=64),
    st.integers(-(2**63), 2**63 - 1),
    st.lists(st.floats(allow_nan=True), max_size=3),
)
metric_keys = st.sampled_from(
    [
        wire.SAMPLES,
        wire.COMPUTE_S,
        wire.LOSS,
        wire.SQUARED_LOSS,
        wire.BYTES_UP,
        wire.UPLOAD_S,
        wire.RTT_S,
        wire.UPLINK_BPS,
        "x",
    ]
)


@st.composite
def replies(draw: st.DrawFn) -> RecordDict:
    records: dict[str, Any] = {}
    for name in draw(
        st.lists(st.sampled_from([wire.METRICS, wire.LINK, wire.TIMING, wire.HELLO, wire.CONTRIBUTION]), unique=True)
    ):
        if draw(st.booleans()):
            records[name] = MetricRecord(draw(st.dictionaries(metric_keys, junk, max_size=6)))
        else:
            records[name] = ConfigRecord({"k": draw(st.one_of(st.text(), st.binary(), st.booleans()))})
    kind = draw(st.sampled_from(["bytes", "floats", "none", "metrics"]))
    if kind == "bytes":
        records[wire.UPDATE] = ArrayRecord({wire.BLOB: Array(np.frombuffer(draw(st.binary(max_size=64)), np.uint8))})
    elif kind == "floats":
        values = draw(st.lists(st.floats(width=32), min_size=LAYOUT.size, max_size=LAYOUT.size))
        blob = np.frombuffer(np.asarray(values, "<f4").tobytes(), np.uint8)
        records[wire.UPDATE] = ArrayRecord({wire.BLOB: Array(blob)})
    elif kind == "metrics":
        records[wire.UPDATE] = MetricRecord({"a": 1.0})
    return RecordDict(records)


@hypothesis_settings(max_examples=25)
@given(answers=st.lists(replies(), min_size=4, max_size=4), greeting=replies(), mode=st.sampled_from(["sync", "async"]))
def test_no_reply_whatsoever_stops_a_live_round_or_poisons_what_is_known(
    answers: list[RecordDict], greeting: RecordDict, mode: str
) -> None:
    grid = trainers(5)
    honest = grid.nodes[1000]
    queue = list(answers)

    def hostile(message: Message) -> RecordDict:
        if message.metadata.message_type == "query":
            return honest(message)
        return queue.pop() if queue else good()

    grid.nodes[1000] = hostile
    grid.nodes[1] = lambda message: greeting  # one that cannot even introduce itself
    grid.online.add(1)
    engine, diary = build(cohort=5, mode=mode)
    play(engine, VirtualArrivals(grid, Links(lambda node, sent_s: 1.0)), 5)
    assert len(diary.rounds) == 5 and engine.model.version >= 3
    assert np.isfinite(engine.model.vector_P).all()
    fleet = engine.state.fleet
    for column in (fleet.sample_s, fleet.rtt_s, fleet.uplink_bps, fleet.downlink_bps, fleet.quality):
        assert (column > 0).all() and np.isfinite(column).all()
    json.dumps(engine.saved()[0], allow_nan=False)
