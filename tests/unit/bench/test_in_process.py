from __future__ import annotations

from pathlib import Path

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hypergpu_fl.bench.in_process import CLIENT_APP_RAISED, InProcessGrid

counting = ClientApp()


@counting.query()
def count(message: Message, context: Context) -> Message:
    """Answer the partition, and how often this node was asked."""
    asked = context.state.metric_records.setdefault("asked", MetricRecord({"times": 0}))
    asked["times"] = int(asked["times"]) + 1
    partition = int(context.node_config["partition-id"])
    if partition == 2:
        raise ValueError("partition 2 is broken")
    content = RecordDict({"answer": MetricRecord({"partition": partition, "times": asked["times"]})})
    return Message(content, reply_to=message)


def grid(folder: Path) -> InProcessGrid:
    return InProcessGrid(counting, 3, {"training.seed": 0}, state_dir=folder)


def ask(grid: InProcessGrid, *nodes: int) -> list[Message]:
    messages = [Message(RecordDict(), node, "query") for node in nodes]
    return list(grid.send_and_receive(messages))


def test_each_node_holds_its_own_partition_and_state_for_as_long_as_the_grid_lasts(tmp_path: Path) -> None:
    nodes = grid(tmp_path)
    assert list(nodes.get_node_ids()) == [1, 2, 3]
    for times in (1, 2):
        answers = [reply.content.metric_records["answer"] for reply in ask(nodes, 2, 1)]
        assert [(a["partition"], a["times"]) for a in answers] == [(1, times), (0, times)]


def test_an_app_that_raises_is_an_error_reply_to_the_right_message(tmp_path: Path) -> None:
    nodes = grid(tmp_path)
    message = Message(RecordDict(), 3, "query")
    (reply,) = nodes.send_and_receive([message])
    assert reply.has_error() and reply.error.code == CLIENT_APP_RAISED
    assert "partition 2 is broken" in reply.error.reason
    assert reply.metadata.reply_to_message_id == message.metadata.message_id


def test_a_reply_is_pulled_once_and_unknown_ids_yield_nothing(tmp_path: Path) -> None:
    nodes = grid(tmp_path)
    (sent,) = nodes.push_messages([Message(RecordDict(), 1, "query")])
    assert len(list(nodes.pull_messages([sent, "no such id"]))) == 1
    assert list(nodes.pull_messages([sent])) == []
