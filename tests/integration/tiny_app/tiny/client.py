"""Answers with its process id."""

import os

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    return Message(RecordDict({"node": ConfigRecord({"pid": os.getpid()})}), reply_to=message)
