"""Pulling through Flower's own objects; only the HTTP between Grid and SuperLink is left out."""

from __future__ import annotations

import itertools

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

from strategies.flower_pull import pull


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


def test_a_reply_comes_whole_with_the_moment_it_was_announced() -> None:
    sent, ticks = reply(), itertools.count(100.0)
    runtime = Runtime(sent, uploading=3)
    pulled = pull(grid_of(runtime), "asked", lambda: next(ticks))
    assert pulled is not None
    assert pulled.announced_s == 100.0
    assert pulled.reply.metadata.message_id == sent.metadata.message_id == runtime.confirmed[0]
    expected = sent.content.array_records["update"]["blob"].numpy()
    assert np.array_equal(pulled.reply.content.array_records["update"]["blob"].numpy(), expected)


def test_no_reply_is_none() -> None:
    assert pull(grid_of(Runtime(None)), "asked", lambda: 0.0) is None


def test_an_upload_that_broke_off_is_an_error_and_is_not_confirmed() -> None:
    runtime = Runtime(reply(), lost=True)
    with pytest.raises(ObjectPullError):
        pull(grid_of(runtime), "asked", lambda: 0.0)
    assert not runtime.confirmed
