"""Pulling through Flower's own objects; only the HTTP between Grid and SuperLink is left out."""

from __future__ import annotations

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
from strategy_grid import NodeGrid, reply_with

from strategies.flower_pull import Announcement, announced, pull


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
