"""A Flower mod that gives any ClientApp compressed messages, both ways.

The app keeps receiving and returning whole arrays; the mod stands between it and the wire. The server side is
`hypergpu_fl.codec.any_app.strategy.Compressed`, around any strategy. Plain FedAvg with the codec, in full:

>>> import numpy as np
>>> from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict, Message
>>> from flwr.clientapp import ClientApp
>>> from flwr.serverapp.strategy import FedAvg
>>> from hypergpu_fl.codec.any_app.mod import codec_mod
>>> from hypergpu_fl.codec.any_app.strategy import Compressed
>>> def initial():
...     return {"weight": np.zeros((50, 40), dtype=np.float32)}
>>> client_app = ClientApp(mods=[codec_mod(initial, "/tmp/hypergpu-doctest")])
>>> @client_app.train()
... def train(message, context):  # knows nothing of the codec
...     arrays = {name: array.numpy() + 1 for name, array in message.content["arrays"].items()}
...     record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
...     metrics = MetricRecord({"num-examples": 10})
...     return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)
>>> strategy = Compressed(FedAvg(), level="top32")  # then strategy.start(grid, ArrayRecord(...)) as ever
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MessageType
from numpy.typing import NDArray

from hypergpu_fl.codec.any_app.records import CODEC_RECORD, blob_of, blob_record, from_record, the_record, to_record
from hypergpu_fl.codec.downlink.views import ViewStore, apply
from hypergpu_fl.codec.encoder import encode_with_feedback
from hypergpu_fl.codec.errors import Malformed
from hypergpu_fl.codec.feedback.residuals import ResidualStore
from strategies import wire
from strategies.model.layout import Layout

Mod = Callable[[Message, Context, Callable[[Message, Context], Message]], Message]
MOST_BYTES = 8 << 30  # of all that is kept in a folder


def codec_mod(arrays: Callable[[], Mapping[str, NDArray[Any]]], folder: str | Path) -> Mod:
    """Mod that decodes what a message brings and encodes what the app returns.

    Parameters
    ----------
    arrays : callable
        Makes the model's arrays, in the order the server has them; only names, shapes and dtypes count.
    folder : str or Path
        Where this machine keeps residuals and views.
    """

    def mod(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        if CODEC_RECORD not in message.content.config_records:
            return call_next(message, context)
        plan = message.content.config_records[CODEC_RECORD]
        layout = Layout.of(arrays())
        key, record = the_record(message)
        owner = (Path(folder), str(context.run_id), str(context.node_id), layout.hash, layout.size, MOST_BYTES)
        views = ViewStore(*owner)
        received = apply(blob_of(record), layout, views.load())
        if received.view is not None:
            views.save(received.view)
        message.content[key] = to_record(layout.restore(received.model_P, received.buffers))
        reply = call_next(message, context)
        if reply.has_error() or message.metadata.message_type != MessageType.TRAIN:
            return reply
        key, record = the_record(reply)
        trained = from_record(record)
        delta_P = layout.flatten(trained) - received.model_P
        residuals = ResidualStore(*owner)
        blob, residual_P = encode_with_feedback(
            _text(plan, wire.CODEC),
            delta_P,
            residuals.load(_number(plan, wire.ACK)),
            layout,
            layout.buffers(trained),
            base=received.version,
        )
        residuals.stage(_number(plan, wire.ROUND), residual_P)
        reply.content[key] = blob_record(blob)
        return reply

    return mod


def _number(plan: ConfigRecord, key: str) -> int:
    value = plan.get(key)
    if not isinstance(value, int):
        raise Malformed(f"the server's plan has no integer {key!r}", "use the codec on both sides")
    return value


def _text(plan: ConfigRecord, key: str) -> str:
    value = plan.get(key)
    if not isinstance(value, str):
        raise Malformed(f"the server's plan has no text {key!r}", "use the codec on both sides")
    return value
