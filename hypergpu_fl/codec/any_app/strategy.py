"""Any Flower strategy, with compressed messages both ways; the client side is `hypergpu_fl.codec.any_app.mod`.

The wrapped strategy sees whole arrays, as if there were no codec. This class keeps, for each node, the last round
whose update was used (acknowledged in the next message, which lets the node spend its residual) and the version of
the view it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from logging import getLogger
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from hypergpu_fl.codec.any_app.records import CODEC_RECORD, blob_of, blob_record, from_record, the_record, to_record
from hypergpu_fl.codec.decoder import decode
from hypergpu_fl.codec.downlink.versions import ModelVersions
from hypergpu_fl.codec.errors import Malformed
from hypergpu_fl.errors import CodecError
from strategies import wire
from strategies.model.layout import Layout, Vector

_LOG = getLogger(__name__)


class Compressed(Strategy):
    """Strategy that compresses what ``inner`` sends and receives.

    Parameters
    ----------
    inner : Strategy
        Any strategy that trains and averages one ArrayRecord.
    level : str or callable
        Level for all nodes, or a function from node id to level.
    chain : str
        Level of the shared downlink chain, see `ModelVersions`.

    Attributes
    ----------
    refusals : list of (node id, reason)
        Replies that could not be decoded; they do not count.
    bytes_down, bytes_up : int
        Blob bytes sent and received.
    """

    def __init__(self, inner: Strategy, *, level: str | Callable[[int], str] = "top32", chain: str = "top32") -> None:
        self._inner = inner
        self._level = level if callable(level) else lambda node: level
        self._chain = chain
        self._versions: ModelVersions | None = None
        self._layout = Layout(())
        self._model_P: Vector = np.empty(0, dtype=np.float32)
        self._buffers: Mapping[str, NDArray[Any]] = {}
        self._held: dict[int, int] = {}
        self._brought: dict[int, int] = {}
        self._used: dict[int, int] = {}
        self.refusals: list[tuple[int, str]] = []
        self.bytes_down = self.bytes_up = 0

    def summary(self) -> None:
        """Log the codec and the wrapped strategy's configuration."""
        _LOG.info("codec: downlink chain at %s", self._chain)
        self._inner.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Compress the wrapped strategy's training messages."""
        self._publish(arrays)
        messages = self._inner.configure_train(server_round, arrays, config, grid)
        return [self._send(message, server_round) for message in messages]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Compress the wrapped strategy's evaluation messages."""
        self._publish(arrays)
        messages = self._inner.configure_evaluate(server_round, arrays, config, grid)
        return [self._send(message, server_round) for message in messages]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode the replies and let the wrapped strategy average them."""
        record, metrics = self._inner.aggregate_train(server_round, list(self._receive(server_round, replies)))
        return None if record is None else to_record(self._typed(from_record(record))), metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Note which views the nodes hold, and pass the replies on."""
        kept = list(replies)
        for reply in kept:
            self._settle_view(reply)
        return self._inner.aggregate_evaluate(server_round, kept)

    def _publish(self, record: ArrayRecord) -> None:
        arrays = from_record(record)
        if self._versions is None:
            self._layout = Layout.of(arrays)
            self._versions = ModelVersions(self._layout, chain=self._chain)
        model_P, buffers = self._layout.flatten(arrays), self._layout.buffers(arrays)
        if self._versions.version < 0 or not np.array_equal(model_P, self._model_P):
            self._versions.publish(self._versions.version + 1, model_P, buffers)
        self._model_P, self._buffers = model_P, buffers

    def _typed(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Arrays in the layout's dtypes: Flower's average turns integers into floats."""
        return {
            entry.name: (arrays[entry.name] if entry.is_float else np.rint(arrays[entry.name])).astype(entry.dtype)
            for entry in self._layout.entries
        }

    def _send(self, message: Message, server_round: int) -> Message:
        assert self._versions is not None  # _publish came first
        node = message.metadata.dst_node_id
        key, _ = the_record(message)
        level = self._level(node)
        download = self._versions.download(level, self._held.get(node, -1))
        self._brought[node] = download.holds
        self.bytes_down += len(download.blob)
        plan: dict[str, Any] = {wire.ROUND: server_round, wire.CODEC: level, wire.ACK: self._used.get(node, -1)}
        # the wrapped strategy shares one content among its messages
        content = RecordDict({**message.content, key: blob_record(download.blob), CODEC_RECORD: ConfigRecord(plan)})
        return Message(content, dst_node_id=node, message_type=message.metadata.message_type)

    def _receive(self, server_round: int, replies: Iterable[Message]) -> Iterator[Message]:
        for reply in replies:
            self._settle_view(reply)
            node = reply.metadata.src_node_id
            self._used.pop(node, None)
            if not reply.has_error():
                try:
                    self._restore(reply)
                except CodecError as refusal:
                    self.refusals.append((node, refusal.cause))
                    _LOG.warning("reply of node %d refused: %s", node, refusal.cause)
                    continue
                self._used[node] = server_round
            yield reply

    def _restore(self, reply: Message) -> None:
        key, record = the_record(reply)
        blob = blob_of(record)
        self.bytes_up += len(blob)
        update = decode(blob, self._layout)
        if self._versions is None or update.base != self._versions.version:
            raise Malformed(f"update against version {update.base}", "the next message brings the current one")
        if not update.finite():
            raise Malformed("update holds NaN or Inf", "lower the learning rate, or scale inputs and targets")
        model_P = self._model_P.copy()
        update.add_to(model_P, 1.0)
        reply.content[key] = to_record(self._layout.restore(model_P, update.buffers))

    def _settle_view(self, reply: Message) -> None:
        node = reply.metadata.src_node_id
        if node in self._brought:
            # whatever went wrong on a node, a whole view puts it right
            self._held[node] = -1 if reply.has_error() else self._brought[node]
