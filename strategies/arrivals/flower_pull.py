"""Pulls replies from Flower's SuperLink: one request asks for all of them, and each is fetched once its upload ends.

``HttpGrid.pull_messages`` retries an object that is still being uploaded after 1, 2, 4, 8 and then every 10 s, so a
reply that took 3.1 s is seen after 7. Here the same requests are retried at least every half second. They are separate
from the request for which replies exist, since the SuperLink announces a reply when its upload begins. This uses names
that Flower does not export, see `strategies.flower_internals`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from flwr.app import Array, Message
from flwr.serverapp import Grid

from strategies.flower_internals import (
    ArrayChunk,
    ConfirmMessageReceivedRequest,
    HttpGrid,
    ObjectPullError,
    PullAppMessagesRequest,
    get_object_body,
    get_object_head_values_from_object_content,
    inflate_object_from_contents,
    iterate_object_tree,
    make_pull_object_fn_protobuf,
    pull_objects,
    set_message_id,
)

FIRST_RETRY_S, LAST_RETRY_S = 0.05, 0.5
MOST_OBJECTS: Final = 20_000  # of one reply; Flower cuts arrays into pieces of 5 MB
LARGEST_REPLY: Final = 2**34  # bytes, if the caller gives no bound


class Announcement(NamedTuple):
    """A reply to the message ``message_id`` that the SuperLink has, or is receiving.

    ``reply_id`` and ``object_ids`` are needed to pull it; they are empty for a Grid that announces nothing.
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
            tuple(node.object_id for node in islice(iterate_object_tree(tree), MOST_OBJECTS + 1)),
        )
        for message, tree in zip(response.messages_list, response.message_object_trees, strict=True)
    ]


class StillUploading(Exception):
    """The upload has not ended yet. What has arrived is kept for the next try."""


class TooLarge(ObjectPullError):
    """A reply that is larger than any valid one."""


def pull(
    grid: Grid,
    announcement: Announcement,
    *,
    within_s: float | None = None,
    largest_bytes: int = LARGEST_REPLY,
    come: dict[str, bytes] | None = None,
) -> Message | None:
    """Wait for a reply's upload to end, and return the reply with all its content; None if there is none after all.

    ``largest_bytes`` bounds both what is fetched and what it is assembled to, since an array may name one piece any
    number of times. ``come`` holds what earlier tries fetched.

    Raises
    ------
    StillUploading
        If the upload has not ended within ``within_s`` seconds.
    TooLarge
        For a reply of more bytes or pieces than any valid one.
    flwr.supercore.inflatable.inflatable_utils.ObjectPullError
        If the upload broke off, or is not a message. The SuperLink will not offer the reply again.
    """
    if not isinstance(grid, HttpGrid):
        return next(iter(grid.pull_messages([announcement.message_id])), None)
    client, run_id, reply_id = grid._runtime_client, grid.run.run_id, announcement.reply_id
    contents = come if come is not None else {}
    fetch = make_pull_object_fn_protobuf(client.PullObject, grid.node, run_id)
    if len(announcement.object_ids) > MOST_OBJECTS:
        raise TooLarge(reply_id, f"{len(announcement.object_ids)} pieces, at most {MOST_OBJECTS} are fetched")

    def bounded(object_id: str) -> bytes:
        content = contents[object_id] = fetch(object_id)
        if (size := sum(map(len, list(contents.values())))) > largest_bytes:
            raise TooLarge(reply_id, f"{size} bytes and more, at most {largest_bytes} are fetched")
        return content

    try:
        pull_objects(
            [object_id for object_id in announcement.object_ids if object_id not in contents],
            bounded,
            max_time=within_s,
            max_tries_per_object=None,
            initial_backoff=FIRST_RETRY_S,
            backoff_cap=LAST_RETRY_S,
        )
    except ObjectPullError as error:
        if _TIMED_OUT in str(error):
            raise StillUploading from None
        raise
    client.ConfirmMessageReceived(
        ConfirmMessageReceivedRequest(node=grid.node, run_id=run_id, message_object_id=reply_id)
    )
    try:
        if (size := inflated_bytes(contents)) > largest_bytes:
            raise TooLarge(reply_id, f"{size} bytes put together, at most {largest_bytes} are read")
        reply = inflate_object_from_contents(reply_id, contents)
        if not isinstance(reply, Message):
            raise TypeError(f"it is a {type(reply).__name__}")
    except ObjectPullError:
        raise
    except Exception as error:  # hostile bytes may make Flower raise anything
        raise ObjectPullError(reply_id, f"it cannot be read: {type(error).__name__}: {error}"[:500]) from error
    set_message_id(reply, reply_id)
    return reply


def inflated_bytes(contents: Mapping[str, bytes]) -> int:
    """Bytes of the objects once every array is assembled from the pieces it names, repeated ones counted each time."""
    total = 0
    for content in contents.values():
        kind, children, _ = get_object_head_values_from_object_content(content)
        if kind == Array.__qualname__:
            order = json.loads(get_object_body(content, Array))["arraychunk_ids"]
            total += sum(len(contents.get(children[index], b"")) for index in order)
        elif kind != ArrayChunk.__qualname__:
            total += len(content)
    return total


_TIMED_OUT: Final = "timeout or retry limit reached"  # in Flower's error, when pieces are still being uploaded
