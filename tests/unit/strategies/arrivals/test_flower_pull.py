"""Pulling through Flower's own objects; only the HTTP between Grid and SuperLink is left out."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MessageType, Metadata, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.app.message.message import make_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.run import Run
from flwr.superlink.grid.http_grid import HttpGrid
from strategy_grid import Counting, NodeGrid, reply_with, work

from strategies.arrivals.flower_pull import Announcement, StillUploading, TooLarge, announced, pull
from strategies.arrivals.hellos import PULLERS
from strategies.arrivals.wall import Pulling, WallArrivals


class Runtime:
    """A SuperLink's Runtime API, whose objects become available after some requests."""

    def __init__(self, reply: Message | None, *, uploading: int = 0, lost: bool = False) -> None:
        self._reply, self._uploading, self._lost = reply, uploading, lost
        self.confirmed: list[str] = []

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        if self._reply is None:
            return PullAppMessagesResponse()
        self._objects = {k: v.deflate() for k, v in get_all_nested_objects(self._reply).items()}
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(self._reply))],
            message_object_trees=[get_object_tree(self._reply)],
        )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        self._uploading -= 1
        if self._lost:
            return PullObjectResponse(object_found=False)
        if self._uploading >= 0:
            return PullObjectResponse(object_found=True, object_available=False)
        content = self._objects[request.object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: ConfirmMessageReceivedRequest) -> None:
        self.confirmed.append(request.message_object_id)


def grid_of(runtime: Runtime) -> HttpGrid:
    grid = HttpGrid(token="token")
    grid._client = runtime
    grid.set_run(Run.create_empty(7))
    return grid


def reply() -> Message:
    blob = Array(np.arange(1000, dtype=np.uint8))
    content = RecordDict({"update": ArrayRecord({"blob": blob})})
    message = make_message(metadata=Metadata(7, "", 1, 1, "asked", "", 0.0, 60.0, MessageType.TRAIN), content=content)
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def test_an_announced_reply_comes_whole_once_its_upload_has_ended() -> None:
    sent = reply()
    runtime = Runtime(sent, uploading=3)
    grid = grid_of(runtime)
    (announcement,) = announced(grid, ["asked", "too"])
    assert announcement.message_id == "asked" and not runtime.confirmed
    pulled = pull(grid, announcement)
    assert pulled is not None
    assert pulled.metadata.message_id == sent.metadata.message_id == runtime.confirmed[0]
    expected = sent.content.array_records["update"]["blob"].numpy()
    assert np.array_equal(pulled.content.array_records["update"]["blob"].numpy(), expected)


def test_without_replies_nothing_is_announced() -> None:
    assert announced(grid_of(Runtime(None)), ["asked"]) == []


def test_an_upload_that_broke_off_is_an_error_and_is_not_confirmed() -> None:
    runtime = Runtime(reply(), lost=True)
    with pytest.raises(ObjectPullError):
        pull(grid_of(runtime), announced(grid_of(runtime), ["asked"])[0])
    assert not runtime.confirmed


def test_a_grid_that_only_tells_by_pulling_is_asked_for_each() -> None:
    node_grid = NodeGrid({0: lambda message: reply_with(np.zeros(8, np.float32))})
    (sent,) = node_grid.push_messages([Message(RecordDict(), dst_node_id=0, message_type="train")])
    (announcement,) = announced(node_grid, [sent])
    assert announcement == Announcement(sent)
    assert pull(node_grid, announcement) is not None and pull(node_grid, Announcement("nobody's")) is None


def array_that_names_one_piece(times: int) -> Runtime:
    """A SuperLink with a reply whose array is made of one piece, again and again."""

    class Inflating(Runtime):
        def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
            response = super().PullMessages(request)
            for object_id, content in self._objects.items():
                self._objects[object_id] = content.replace(
                    b'"arraychunk_ids": [0]', b'"arraychunk_ids": [' + b",".join([b"0"] * times) + b"]"
                )
            return response

    return Inflating(reply())


def test_an_array_that_names_one_piece_a_million_times_is_refused_before_it_is_put_together() -> None:
    grid = grid_of(array_that_names_one_piece(1_000_000))
    with pytest.raises(TooLarge, match="put together, at most 4000000 are read"):
        pull(grid, announced(grid, ["asked"])[0], largest_bytes=4_000_000)


def test_more_bytes_than_anything_has_are_not_fetched() -> None:
    grid = grid_of(Runtime(reply()))
    with pytest.raises(TooLarge, match="at most 100 are fetched"):
        pull(grid, announced(grid, ["asked"])[0], largest_bytes=100)
    (announcement,) = announced(grid, ["asked"])
    with pytest.raises(TooLarge, match="30000 pieces"):
        pull(grid, announcement._replace(object_ids=("x",) * 30_000))


def test_an_upload_that_does_not_end_loses_its_turn_and_goes_on_from_what_has_come() -> None:
    runtime = Runtime(reply(), uploading=10**9)
    grid = grid_of(runtime)
    (announcement,) = announced(grid, ["asked"])
    come: dict[str, bytes] = {}
    with pytest.raises(StillUploading):
        pull(grid, announcement, within_s=0.1, come=come)
    assert not runtime.confirmed
    runtime._uploading = 0
    assert pull(grid, announcement, within_s=0.1, come=come) is not None and runtime.confirmed


def test_what_is_no_message_is_an_error_and_never_asked_for_again() -> None:
    runtime = Runtime(reply())
    grid = grid_of(runtime)
    (announcement,) = announced(grid, ["asked"])
    runtime._objects = {key: b"rubbish" for key in runtime._objects}
    with pytest.raises(ObjectPullError, match="cannot be read"):
        pull(grid, announcement)


class Withheld(Runtime):
    """A SuperLink whose replies to these messages are announced and never come; the others are whole."""

    def __init__(self, withheld: int, *, kind: str) -> None:
        super().__init__(None)
        self._withheld, self._kind = withheld, kind
        self._held: set[str] = set()
        self._pending: list[Message] = []
        self._objects: dict[str, bytes] = {}

    def answer(self, messages: list[Message]) -> list[str]:
        for index, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"{self._kind}-{index}"
            answer = make_message(
                metadata=Metadata(7, "", 10 + index, 1, f"{self._kind}-{index}", "", 0.0, 60.0, self._kind),
                content=RecordDict({"update": ArrayRecord({"blob": Array(np.full(8, index, np.uint8))})}),
            )
            answer.metadata.__dict__["_message_id"] = answer.object_id
            parts = {key: value.deflate() for key, value in get_all_nested_objects(answer).items()}
            self._objects.update(parts)
            if index < self._withheld:
                self._held |= parts.keys()
            else:
                self._held -= parts.keys()
            self._pending.append(answer)
        return [message.metadata.message_id for message in messages]

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        wanted = set(request.message_ids)
        told = [answer for answer in self._pending if answer.metadata.reply_to_message_id in wanted]
        self._pending = [answer for answer in self._pending if answer not in told]
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(answer)) for answer in told],
            message_object_trees=[get_object_tree(answer) for answer in told],
        )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        held = request.object_id in self._held
        content = b"" if held else self._objects[request.object_id]
        return PullObjectResponse(object_found=True, object_available=not held, object_content=content)


def withholding(withheld: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> HttpGrid:
    runtime = Withheld(withheld, kind=kind)
    grid = grid_of(runtime)
    monkeypatch.setattr(grid, "push_messages", lambda messages: runtime.answer(list(messages)))
    return grid


def test_a_hello_that_is_announced_and_never_uploaded_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.arrivals.hellos.HELLO_WITHIN_S", 4.0)
    arrivals = WallArrivals(withholding(2, "query", monkeypatch), poll_s=0.01)
    queries = [Message(RecordDict(), dst_node_id=10 + i, message_type="query") for i in range(5)]
    began_s = time.monotonic()
    answered = dict(arrivals.ask(queries, timeout_s=0.5))
    assert time.monotonic() - began_s < 4.0 and sorted(answered) == [12, 13, 14]
    late = dict(arrivals.ask([], timeout_s=30.0))
    assert sorted(late) == [10, 11] and all("did not come" in error.error.reason for error in late.values())


def test_a_hundred_withheld_hellos_take_a_handful_of_threads_and_hold_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = set(threading.enumerate())
    arrivals = WallArrivals(withholding(100, "query", monkeypatch), poll_s=0.001)
    queries = [Message(RecordDict(), dst_node_id=10 + i, message_type="query") for i in range(103)]
    answered = dict(arrivals.ask(queries, timeout_s=3.0))
    threads = set(threading.enumerate()) - before
    arrivals.close()
    assert sorted(answered) == [110, 111, 112]
    assert 1 <= sum(thread.name == "hello" for thread in threads) <= PULLERS


def test_what_is_kept_of_withheld_replies_is_no_more_than_pullers_would_hold() -> None:
    arrivals = WallArrivals(grid_of(Runtime(None)), pullers=2, largest_bytes=1000)
    under_way = [Pulling(Announcement(str(i)), 0.0, 0.0, {"piece": bytes(900)}) for i in range(5)]
    for pulling in [*under_way, *under_way]:
        arrivals._park(pulling)
    assert [len(pulling.come) for pulling in under_way] == [1, 1, 0, 0, 0]


def test_more_withheld_replies_than_pullers_do_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategies.arrivals.wall.TURN_S", 0.1)
    monkeypatch.setattr("strategies.arrivals.wall.GRACE_S", 1.0)
    arrivals = WallArrivals(withholding(8, "train", monkeypatch), pullers=3, poll_s=0.01)
    orders = [work(10 + i, number=i) for i in range(12)]
    for order in orders:
        order.metadata.ttl = 1.0
    counting = Counting(quota=12, deadline_s=20.0)
    arrivals.terms = counting.terms()
    whole, broken = [], []
    began_s = time.monotonic()
    for each in arrivals.send_and_receive(orders):
        counting.take(each)
        (broken if each.has_error() else whole).append((time.monotonic() - began_s, each))
    arrivals.close()
    assert len(whole) == 4 and max(at_s for at_s, _ in whole) < 1.9
    assert len(broken) == 8 and all("did not end" in each.error.reason for _, each in broken)
