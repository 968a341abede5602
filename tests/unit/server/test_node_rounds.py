"""Rows of a round by hand, and the table they become."""

from __future__ import annotations

import csv
import io

import numpy as np

from hypergpu_fl.server.node_rounds import MOST_COLUMNS, as_csv, node_rows
from strategies import wire
from strategies.errors import Reason
from strategies.outcome import Accepted, Journey, Ordered, RefusedReply, RoundOutcome

OWN = {wire.SAMPLES: 64.0, wire.LOSS: 0.5, wire.STEPS: 2.0, wire.EXAMPLES: 40.0, wire.COUNT: 640.0}


def accepted(row: int, ordered_in: int, **metrics: float) -> Accepted:
    named = {f"{wire.TASK_METRIC}{name}": value for name, value in metrics.items()}
    journey = Journey(ordered_in, 2, "int8", 900, {**OWN, **named}, 0.1, 0.2, 0.3, 0.7)
    return Accepted(row, f"node-{row}", row, ordered_in, 1, 1, 2, 40, 800, 0.25, journey.metrics, journey)


def outcome(*replies: Accepted | RefusedReply, orders: tuple[int, ...], dropped: tuple[int, ...] = ()) -> RoundOutcome:
    return RoundOutcome(
        round=4,
        started_s=0.0,
        ended_s=1.0,
        selected=orders,
        accepted=[reply for reply in replies if isinstance(reply, Accepted)],
        refused=[reply for reply in replies if isinstance(reply, RefusedReply)],
        late=0,
        bytes_down=0,
        bytes_up=0,
        base_hash=b"",
        model_hash=b"",
        average_P=np.zeros(1, np.float32),
        buffers={},
        ordered=[Ordered(row, f"node-{row}", 5, "top4", 1000 + row) for row in orders],
        dropped=dropped,
    )


def refused(row: int, ordered_in: int, detail: str = "") -> RefusedReply:
    return RefusedReply(row, f"node-{row}", 4, Reason.ERROR_REPLY, detail, Journey(ordered_in, 2, "int8", 9))


def test_a_node_that_left_is_not_said_to_be_refused() -> None:
    (row,) = node_rows(outcome(RefusedReply(1, "node-1", 4, Reason.LEFT, "node unavailable"), orders=()))
    assert (row["verdict"], row["refusal"]) == ("left", "left: node unavailable")


def test_each_order_and_each_late_reply_has_one_row_with_its_verdict_by_the_nodes_names() -> None:
    made = node_rows(
        outcome(accepted(10, 4), accepted(2, 3), refused(3, 4, "no\nmemory"), orders=(10, 3, 2, 3, 1), dropped=(1,))
    )
    assert [(row["node"], row["verdict"], row["bytes_down"]) for row in made] == [
        ("node-1", "dropped", 1001),
        ("node-2", "late", 0),
        ("node-2", "working", 1002),
        ("node-3", "refused", 1003),
        ("node-3", "working", 1003),  # it failed, and was asked again
        ("node-10", "counted", 1010),
    ]
    assert [(row["node"], row["attempt"], row["ordered"]) for row in made[1:5]] == [
        ("node-2", 1, 3),
        ("node-2", 2, 4),
        ("node-3", 1, 4),
        ("node-3", 2, 4),
    ]
    assert made[3]["refusal"] == "error reply: no memory"
    assert made[-1] | {"metrics": {}} == {
        "round": 4,
        "node": "node-10",
        "attempt": 1,
        "ordered": 4,
        "verdict": "counted",
        "refusal": None,
        "steps": 2,
        "samples": 64,
        "count": 640,
        "train_loss": 0.5,
        "codec": "int8",
        "bytes_down": 1010,
        "bytes_up": 800,
        "download_s": 0.1,
        "compute_s": 0.2,
        "upload_s": 0.3,
        "total_s": 0.7,
        "weight": 0.25,
        "staleness": 1,
        "metrics": {},
    }


def test_metrics_of_the_tasks_own_are_kept_by_name_and_bounded() -> None:
    flood = {f"m{i:03}": float(i) for i in range(100)}
    odd = {"=cmd()": 1.0, "a\nb": 1.0, "": 1.0, "x" * 65: 1.0}
    (row,) = node_rows(outcome(accepted(0, 4, **flood, **odd), orders=(0,)))
    assert row["metrics"] == {f"m{i:03}": float(i) for i in range(wire.MOST_METRICS)}
    (row,) = node_rows(outcome(accepted(0, 4, r2=0.5, perplexity=7.5), orders=(0,)))
    assert row["metrics"] == {"r2": 0.5, "perplexity": 7.5}


def test_the_table_has_a_column_for_each_of_the_commonest_metrics_and_no_control_characters() -> None:
    replies = [accepted(i, 4, r2=i / 10, **{f"own{i}": 1.0, f"more{i}": 2.0}) for i in range(50)]
    rows = node_rows(outcome(*replies, refused(60, 3, "\x1b[31m red"), orders=tuple(range(50))))
    table = list(csv.DictReader(io.StringIO(as_csv(rows))))
    names = [name for name in table[0] if name.startswith("metrics.")]
    assert len(names) == MOST_COLUMNS and "metrics.r2" in names
    assert [line["metrics.r2"] for line in table] == [str(i / 10) for i in range(50)] + [""]
    assert table[-1]["refusal"] == "error reply: \\x1b[31m red"
