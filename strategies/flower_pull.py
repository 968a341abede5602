"""Pulling replies from Flower's SuperLink: one question for all of them, and each as soon as its upload has ended.

``HttpGrid.pull_messages`` retries an object that is still being uploaded after 1, 2, 4, 8 and then every 10 s, so a
reply that took 3.1 s is seen after 7. Here the same requests are made with retries every half second at most, and
apart from the question which replies there are: a reply is announced when its upload begins. This uses names that
Flower 1.41 does not export; the version is pinned for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from flwr.app import Message
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects
from flwr.superlink.grid.http_grid import HttpGrid

FIRST_RETRY_S, LAST_RETRY_S = 0.05, 0.5


class Announcement(NamedTuple):
    """A reply to the message ``message_id`` that the SuperLink has, or is receiving.

    ``reply_id`` and ``object_ids`` are what it is pulled by; empty from a Grid that only tells by pulling.
    """

    message_id: str
    reply_id: str = ""
    object_ids: tuple[str, ...] = ()


def announced(grid: Grid, message_ids: Sequence[str]) -> list[Announcement]:
    """Which replies to these messages may be pulled; the SuperLink announces each once."""
    if not isinstance(grid, HttpGrid):
        return [Announcement(message_id) for message_id in message_ids]
    response = grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
    return [
        Announcement(
            message.metadata.reply_to_message_id,
            message.metadata.message_id,
            tuple(node.object_id for node in iterate_object_tree(tree)),
        )
        for message, tree in zip(response.messages_list, response.message_object_trees, strict=True)
    ]


def pull(grid: Grid, announcement: Announcement) -> Message | None:
    """A reply with all its content, waiting for its upload to end; None if there is none after all.

    Raises
    ------
    flwr.supercore.inflatable.inflatable_utils.ObjectPullError
        If the upload broke off; the SuperLink will not have the reply again.
    """
    if not isinstance(grid, HttpGrid):
        return next(iter(grid.pull_messages([announcement.message_id])), None)
    client, run_id, reply_id = grid._runtime_client, grid.run.run_id, announcement.reply_id
    contents = pull_objects(
        list(announcement.object_ids),
        make_pull_object_fn_protobuf(client.PullObject, grid.node, run_id),
        max_tries_per_object=None,
        initial_backoff=FIRST_RETRY_S,
        backoff_cap=LAST_RETRY_S,
    )
    client.ConfirmMessageReceived(
        ConfirmMessageReceivedRequest(node=grid.node, run_id=run_id, message_object_id=reply_id)
    )
    reply = inflate_object_from_contents(reply_id, contents)
    if not isinstance(reply, Message):
        raise TypeError(f"the reply to {announcement.message_id} is a {type(reply).__name__}")
    reply.metadata.__dict__["_message_id"] = reply_id
    return reply
