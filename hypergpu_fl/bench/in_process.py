"""A Flower Grid whose nodes live in this process: the ClientApp is called directly, without Ray, sockets or threads.

This leaves out what a simulation engine adds to a call (serialising, scheduling, starting a process). The ClientApp's
own work is all done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from loguru import logger

from strategies.flower_internals import TaskIdentity, set_message_id

CLIENT_APP_RAISED = 2  # Flower's code for an exception inside a ClientApp
RUN_ID = 1
SERVER_ID = 0


class InProcessGrid(Grid):
    """Virtual nodes ``1..nodes``, each with a Context of its own that lasts as long as the Grid.

    A message is answered when it is pulled. A ClientApp that raises yields an error reply, as on a real node.

    Parameters
    ----------
    app : ClientApp
        What every node runs.
    nodes : int
        How many there are; node ``i`` holds partition ``i - 1``.
    run_config : Mapping
        Flower's flat run-config, the same on every node.
    state_dir : Path
        Folder in which every node keeps its state in a folder of its own.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: int,
        run_config: Mapping[str, bool | int | float | str],
        *,
        state_dir: Path,
    ) -> None:
        self._app = app
        self._contexts = {
            node_id: Context(
                run_id=RUN_ID,
                node_id=node_id,
                node_config={
                    "partition-id": node_id - 1,
                    "num-partitions": nodes,
                    "state-dir": str(state_dir / str(node_id)),
                },
                state=RecordDict({"node": ConfigRecord()}),
                run_config=dict(run_config),
            )
            for node_id in range(1, nodes + 1)
        }
        # Every Message names the process that made it. On a real server Flower sets that before the app starts.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_ID, 0
        self._waiting: dict[str, Message] = {}
        self._pushed = 0

    def set_run(self, run: Any) -> None:
        """Nothing to set: there is one run."""

    @property
    def run(self) -> Any:
        """There is no SuperLink, hence no Run record."""
        raise NotImplementedError("an in-process grid has no run record")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all nodes: they never leave."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages for their nodes; ids are the numbers of the messages."""
        ids = []
        for message in messages:
            self._pushed += 1
            set_message_id(message, str(self._pushed))
            self._waiting[str(self._pushed)] = message
            ids.append(str(self._pushed))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to those messages that were pushed and not yet pulled, computed now, in the order asked for."""
        return [self._answer(self._waiting.pop(i)) for i in message_ids if i in self._waiting]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """All replies, in the order of the messages; nothing times out."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # whatever a ClientApp may raise
            logger.opt(exception=error).warning("node {} raised", message.metadata.dst_node_id)
            return Message(Error(CLIENT_APP_RAISED, f"{type(error).__name__}: {error}"), reply_to=message)
