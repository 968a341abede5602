"""Pulling one reply from Flower's SuperLink, sooner and with the time its upload took.

``HttpGrid.pull_messages`` retries an object that is still being uploaded after 1, 2, 4, 8 and then every 10 s, so a
reply that took 3.1 s is seen after 7. Here the same requests are made with retries every half second at most, and
the moment at which the reply was announced is kept: its upload began then, and ends with its last object. Neither
clock is the node's. This uses names that Flower 1.41 does not export; the version is pinned for it.
"""

from __future__ import annotations

from collections.abc import Callable
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


class Pulled(NamedTuple):
    """A reply, and the moment it was announced on the puller's clock; None from a Grid that does not tell."""

    reply: Message
    announced_s: float | None


def pull(grid: Grid, message_id: str, clock: Callable[[], float]) -> Pulled | None:
    """The reply to ``message_id`` with all its content, waiting for its upload to end; None if there is none yet.

    Raises
    ------
    flwr.supercore.inflatable.inflatable_utils.ObjectPullError
        If the upload broke off; the SuperLink will not have the reply again.
    """
    if not isinstance(grid, HttpGrid):
        return next((Pulled(reply, None) for reply in grid.pull_messages([message_id])), None)
    client, run_id = grid._runtime_client, grid.run.run_id
    response = client.PullMessages(PullAppMessagesRequest(message_ids=[message_id]))
    if not response.messages_list:
        return None
    announced_s = clock()
    reply_id = response.messages_list[0].metadata.message_id
    contents = pull_objects(
        [tree.object_id for tree in iterate_object_tree(response.message_object_trees[0])],
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
        raise TypeError(f"the reply to {message_id} is a {type(reply).__name__}")
    reply.metadata.__dict__["_message_id"] = reply_id
    return Pulled(reply, announced_s)
