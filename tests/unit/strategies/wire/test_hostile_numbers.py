"""Every number from a node has a domain: one node's numbers neither end a round nor decide for the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from strategy_grid import LAYOUT, Links, Trainer, reply_with
from strategy_runs import build, play, trainers

from strategies import wire
from strategies.arrivals import VirtualArrivals
from strategies.errors import Reason, Refused
from strategies.planning.progress import balanced_steps
from strategies.wire import domains

ALIKE = Links(lambda node, sent_s: 1.0)


class Liar(Trainer):
    """A node that trains as told and says what it likes."""

    def __init__(self, hello: Mapping[str, Any] | None = None, **said: Mapping[str, Any]) -> None:
        super().__init__(0)
        self._hello, self._said = hello or {}, said

    def __call__(self, message: Message) -> RecordDict:
        content = super().__call__(message)
        if message.metadata.message_type == "query":
            content[wire.HELLO] = MetricRecord({wire.PARTITION: 0, wire.EXAMPLES: 64, **self._hello})
        else:
            for name, numbers in self._said.items():
                content[name] = MetricRecord({**(content.metric_records.get(name) or {}), **numbers})
        return content


def played(liar: Liar, rounds: int = 6) -> Any:
    grid = trainers(6)
    grid.nodes[1000] = liar
    engine, diary = build(cohort=6, mode="sync", quota=1.0, deadline_s=100.0)
    play(engine, VirtualArrivals(grid, ALIKE), rounds)
    assert len(diary.rounds) == rounds and all(len(outcome.accepted) >= 5 for outcome in diary.rounds)
    assert np.isfinite(engine.model.vector_P).all()
    json.dumps(engine.saved()[0], allow_nan=False)
    return engine, diary


@pytest.mark.parametrize("rate", [5e-324, 1e-9, 999.0, 1.1e12, 1e308, -1.0])
def test_a_link_rate_that_no_link_has_is_left_out_and_the_run_goes_on(rate: float) -> None:
    engine, diary = played(Liar(link={wire.UPLINK_BPS: rate, wire.DOWNLINK_BPS: rate}))
    assert not diary.reasons
    for column in (engine.state.fleet.uplink_bps, engine.state.fleet.downlink_bps):
        assert ((column > 1) & (column < 1e12)).all()


@pytest.mark.parametrize("examples", [1e308, 1e19, 2**62, 2.0**41, 1.5, -1])
def test_a_hello_with_examples_that_nobody_has_is_turned_away_with_its_number(examples: float) -> None:
    engine, diary = played(Liar({wire.EXAMPLES: examples}))
    assert "num-examples is" in engine.roster.unfit[1000] and len(engine.state.fleet) == 5


@pytest.mark.parametrize("partition", [-1, 2**40, 1.5])
def test_a_hello_for_a_share_that_is_none_is_turned_away(partition: float) -> None:
    engine, _ = played(Liar({wire.PARTITION: partition}))
    assert "partition-id is" in engine.roster.unfit[1000]


@pytest.mark.parametrize(
    ("name", "value"),
    [(wire.LOSS, 1e300), (wire.SAMPLES, -5.0), (wire.COMPUTE_S, -1.0), (wire.COMPUTE_S, 1e9), (wire.EXAMPLES, 1e30)],
)
def test_work_that_cannot_have_been_done_is_refused_with_its_number(name: str, value: float) -> None:
    _, diary = played(Liar(metrics={name: value}))
    assert set(diary.reasons) == {Reason.NON_FINITE if name == wire.LOSS else Reason.MALFORMED}
    assert all(f"{name} is" in refused.detail for outcome in diary.rounds for refused in outcome.refused)


def test_a_node_that_claims_a_slow_processor_does_not_shorten_everybodys_work() -> None:
    honest_s = np.full(9, 0.01)
    transfer_s = np.full(10, 0.2)
    assert balanced_steps(transfer_s, np.append(honest_s, 1e3)) == balanced_steps(transfer_s[:9], honest_s) == 20
    assert balanced_steps(np.append(transfer_s[:9], 1e6), np.full(10, 0.025)) == 8


def test_records_of_any_size_are_cut_or_refused() -> None:
    kept = domains.device({f"key {i}": "x" * 10_000 for i in range(1000)} | {"y" * 5000: 1, "bytes": b"x"})
    assert len(kept) <= domains.MOST_TEXTS and all(len(text) <= domains.LONGEST_TEXT for text in kept.values())
    assert domains.device({"half": "\ud800", "nan": float("nan")}) == {"half": "?"}
    assert domains.device({"y" * (domains.LONGEST_NAME + 1): 1, "z": 2}) == {"z": 2}
    for record in ({f"{i}": 1.0 for i in range(1000)}, {"x" * 1000: 1.0}):
        with pytest.raises(Refused, match="at most"):
            domains.finite_scalars(record)
    with pytest.raises(Refused, match="too much"):
        domains.identity({"model": "x" * 2**21})


def test_numbers_that_are_not_finite_are_not_read() -> None:
    content = reply_with(np.ones(LAYOUT.size), loss=float("nan"), x=float("inf"))
    assert wire.numbers(content, wire.METRICS) == {wire.SAMPLES: 64}


def test_whatever_hostile_bytes_make_a_reader_say_can_be_written_down_and_is_short() -> None:
    detail = wire.malformed("the reply cannot be read", ValueError("\udc80" + "x" * 10_000)).detail
    assert detail.encode() and len(detail) <= domains.LARGEST_REASON


def test_a_hello_that_breaks_its_reader_is_turned_away_and_the_others_train() -> None:
    class Breaks(Liar):
        def __call__(self, message: Message) -> RecordDict:
            content = super().__call__(message)
            content[wire.DEVICE] = ConfigRecord({"device": "x"})
            return content

    grid = trainers(6)
    grid.nodes[1000] = Breaks()
    engine, diary = build(cohort=6, mode="sync", quota=1.0, deadline_s=100.0)

    def vet(node_id: int, hello: wire.Hello) -> None:
        if hello.device:
            raise OverflowError("int too large to convert to float")

    diary.vet = vet
    play(engine, VirtualArrivals(grid, ALIKE), 2)
    assert "OverflowError" in engine.roster.unfit[1000] and len(diary.rounds) == 2


def test_a_reply_of_a_thousand_numbers_is_refused() -> None:
    many = {f"metric.{i}": 1.0 for i in range(1000)}
    with pytest.raises(Refused, match="1000 numbers|100. numbers"):
        wire.numbers(reply_with(np.ones(LAYOUT.size), **many), wire.METRICS)


def test_a_simulated_node_that_replies_with_a_thousand_numbers_is_refused_as_any_other() -> None:
    _, diary = played(Liar(metrics={f"metric.{i}": 1.0 for i in range(1000)}))
    assert set(diary.reasons) == {Reason.TOO_LARGE}
