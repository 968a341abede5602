"""Plain FedAvg with the codec: a real strategy and real ClientApps, joined in process."""

from __future__ import annotations

import doctest
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from hypergpu_fl.codec.any_app import mod as mod_module
from hypergpu_fl.codec.any_app.mod import codec_mod
from hypergpu_fl.codec.any_app.records import blob_of, blob_record, from_record, to_record
from hypergpu_fl.codec.any_app.strategy import Compressed
from hypergpu_fl.codec.errors import Malformed
from strategies import wire

SHAPES = {"weight": (60, 40), "bias": (40,), "steps": ()}
TARGET = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower tells a process that it starts for a run."""
    for name, value in (("_run_id", 7), ("_node_id", 99), ("_task_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)


# Error feedback sends a value some sixteen rounds late: steps must be small against that, as in training they are.
GAIN = np.float32(0.05)


def initial() -> dict[str, np.ndarray]:
    return {
        "weight": np.zeros(SHAPES["weight"], dtype=np.float32),
        "bias": np.zeros(SHAPES["bias"], dtype=np.float32),
        "steps": np.array(0, dtype=np.int64),
    }


def app(folder: Path) -> ClientApp:
    client_app = ClientApp(mods=[codec_mod(initial, folder)])

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = from_record(message.content["arrays"])
        arrays["weight"] = arrays["weight"] + GAIN * (TARGET - arrays["weight"])
        arrays["steps"] = arrays["steps"] + 1
        metrics = MetricRecord({"num-examples": 10})
        return Message(RecordDict({"arrays": to_record(arrays), "metrics": metrics}), reply_to=message)

    @client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        error = float(np.linalg.norm(from_record(message.content["arrays"])["weight"] - TARGET))
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "error": error})}), reply_to=message)

    return client_app


class InProcessGrid(Grid):
    """Grid whose nodes are ClientApps of this process; ``lose(round, node)`` drops a reply."""

    def __init__(self, folder: Path, nodes: int, lose=lambda round, node: False) -> None:
        self.apps = {node: app(folder / str(node)) for node in range(1, nodes + 1)}
        self.lose, self.folder = lose, folder
        self.errors: list[str] = []

    def set_run(self, run) -> None:
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def push_messages(self, messages):
        raise NotImplementedError

    def pull_messages(self, message_ids):
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            context = Context(run_id=7, node_id=node, node_config={}, state=RecordDict(), run_config={})
            round = message.content.config_records["codec"][wire.ROUND]
            try:
                reply = self.apps[node](message, context)
            except Exception as error:
                self.errors.append(str(error))
                reply = Message(Error(code=2, reason=str(error)), reply_to=message)
            if not self.lose(round, node):
                replies.append(reply)
        return replies


def run(folder: Path, rounds: int, lose=lambda round, node: False, evaluate: float = 0.0, **codec):
    strategy = Compressed(FedAvg(min_available_nodes=2, fraction_evaluate=evaluate), **codec)
    grid = InProcessGrid(folder, 2, lose)
    result = strategy.start(grid, to_record(initial()), num_rounds=rounds, timeout=1)
    return strategy, grid, result


def distance(result) -> float:
    """What is left of the way to the target."""
    return float(np.linalg.norm(from_record(result.arrays)["weight"] - TARGET) / np.linalg.norm(TARGET))


def test_plain_fedavg_learns_through_the_codec(tmp_path: Path) -> None:
    strategy, grid, result = run(tmp_path, 50, level="top16", chain="top16")
    assert distance(result) < 0.25
    assert from_record(result.arrays)["steps"] == 50 and from_record(result.arrays)["steps"].dtype == np.int64
    assert not grid.errors and not strategy.refusals
    dense = 4 * (60 * 40 + 40) * 2 * 50
    assert dense / strategy.bytes_up > 20  # 2,440 values: headers weigh as much as what is kept
    assert dense / strategy.bytes_down > 12


def test_lossless_is_fedavg_without_a_codec(tmp_path: Path) -> None:
    _, _, result = run(tmp_path, 4, evaluate=1.0, level="fp32")
    np.testing.assert_allclose(from_record(result.arrays)["weight"], TARGET * (1 - (1 - GAIN) ** 4), rtol=1e-5)
    assert result.evaluate_metrics_clientapp[4]["error"] == pytest.approx(
        float(np.linalg.norm(TARGET)) * 0.95**4, rel=1e-5
    )


def test_lost_replies_do_not_spoil_what_is_learned(tmp_path: Path) -> None:
    _, grid, result = run(tmp_path, 50, lambda round, node: (round + node) % 4 == 0, level="top16", chain="top16")
    assert distance(result) < 0.35
    assert not grid.errors


def test_a_node_that_lost_its_disk_is_sent_a_whole_view(tmp_path: Path) -> None:
    wiped = []

    def lose(round: int, node: int) -> bool:
        if round == 3 and node == 2 and not wiped:
            wiped.append(node)
            for path in (tmp_path / "2").glob("*/*"):
                path.unlink()
        return False

    _, grid, result = run(tmp_path, 20, lose, evaluate=1.0, level="top16", chain="top16")
    assert len(grid.errors) == 1 and "not held here" in grid.errors[0]
    assert distance(result) < 0.7
    errors = [metrics["error"] for metrics in result.evaluate_metrics_clientapp.values()]
    assert errors[-1] < errors[4] < errors[0]


def test_a_reply_that_is_no_blob_does_not_count(tmp_path: Path) -> None:
    strategy = Compressed(FedAvg(min_available_nodes=2), level="int8")
    grid = InProcessGrid(tmp_path, 2)
    messages = strategy.configure_train(1, to_record(initial()), ConfigRecord(), grid)
    replies = list(grid.send_and_receive(messages))
    replies[0].content["arrays"] = ArrayRecord({wire.BLOB: Array(np.zeros(99, dtype=np.uint8))})
    arrays, _ = strategy.aggregate_train(1, replies)
    assert len(strategy.refusals) == 1 and arrays is not None
    np.testing.assert_allclose(from_record(arrays)["weight"], TARGET * GAIN, atol=0.01)


def test_messages_without_a_plan_pass_unchanged(tmp_path: Path) -> None:
    message = Message(RecordDict({"arrays": to_record(initial())}), dst_node_id=1, message_type="train")
    context = Context(run_id=7, node_id=1, node_config={}, state=RecordDict(), run_config={})
    reply = app(tmp_path)(message, context)
    np.testing.assert_allclose(reply.content["arrays"]["weight"].numpy(), TARGET * GAIN, rtol=1e-6)


def test_only_one_flat_uint8_array_is_taken_for_a_blob() -> None:
    assert bytes(blob_of(blob_record(b"abc"))) == b"abc"
    good = blob_record(b"abc")[wire.BLOB]
    for record in (
        to_record({"other": np.zeros(3, dtype=np.uint8)}),
        to_record({wire.BLOB: np.zeros(3, dtype=np.float32)}),
        to_record({wire.BLOB: np.zeros((3, 1), dtype=np.uint8)}),
        ArrayRecord({wire.BLOB: Array(dtype="uint8", shape=(3,), stype=good.stype, data=b"nonsense")}),
        ArrayRecord({wire.BLOB: Array(dtype="uint8", shape=(3,), stype=good.stype, data=good.data[:-1])}),
    ):
        with pytest.raises(Malformed):
            blob_of(record)


def npy(header: bytes) -> Array:
    """An array whose npy header is the sender's own invention."""
    data = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + b"abc"
    return Array(dtype="uint8", shape=(3,), stype="numpy.ndarray", data=data)


HOSTILE_HEADERS = {
    "cut": b"{'descr': '|u1', 'fortran_order': False, 'shape': (3,",
    "nested": b"(" * 5000,
    "no dtype": b"{'descr': ',,', 'fortran_order': False, 'shape': (3,), }\n",
    "indented": b"\n  a\n b",
    "unhashable": b"{[]:1}",
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }\n",
    "longer": b"{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }\n",
    "endless": b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"9" * 5000 + b",), }\n",
    "not text": b"\xff",
    "empty": b"",
}


@pytest.mark.parametrize("header", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_a_header_that_numpy_did_not_write_is_refused_and_the_round_goes_on(tmp_path: Path, header: bytes) -> None:
    strategy = Compressed(FedAvg(min_available_nodes=2), level="int8")
    grid = InProcessGrid(tmp_path, 2)
    replies = list(grid.send_and_receive(strategy.configure_train(1, to_record(initial()), ConfigRecord(), grid)))
    replies[0].content["arrays"] = ArrayRecord({wire.BLOB: npy(header)})
    arrays, _ = strategy.aggregate_train(1, replies)
    assert len(strategy.refusals) == 1 and arrays is not None


def test_the_example_in_the_docstring_runs() -> None:
    results = doctest.testmod(mod_module)
    assert results.attempted > 8 and results.failed == 0
