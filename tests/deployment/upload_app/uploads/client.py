"""Replies with random bytes: Flower sends identical chunks once."""

import os

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def send(message: Message, context: Context) -> Message:
    size = int(context.run_config["megabytes"]) * 1_000_000 if context.node_config["partition-id"] == 0 else 1000
    blob = Array(np.frombuffer(os.urandom(size), dtype=np.uint8))
    return Message(RecordDict({"update": ArrayRecord({"blob": blob})}), reply_to=message)
