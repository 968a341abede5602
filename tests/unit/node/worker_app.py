"""A ClientApp that tells who it is and how often it was asked; or raises, or ends its process."""

from __future__ import annotations

import os

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Count in the context, which is the node's memory, and answer with the count and this process."""
    wish = str(context.node_config.get("wish", ""))
    if wish == "raise":
        raise ValueError("no such share")
    if wish == "die":
        os._exit(9)
    memory = context.state.config_records.setdefault("memory", ConfigRecord({"count": 0}))
    memory["count"] = int(str(memory["count"])) + 1
    sent = message.content.config_records["order"]
    answer = ConfigRecord({"process": os.getpid(), "count": memory["count"], "sent": sent["payload"]})
    return Message(RecordDict({"answer": answer}), reply_to=message)
