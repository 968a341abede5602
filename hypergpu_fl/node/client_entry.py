"""What Flower starts for every message to a node: passes it to the run's worker, or answers itself in simulation."""

from __future__ import annotations

import logging
import os

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hypergpu_fl.config import from_run_config

APP = "hypergpu_fl.node.client_app:app"

log = logging.getLogger(__name__)

app = ClientApp()


@app.query()
@app.train()
def answer(message: Message, context: Context) -> Message:
    """Answer as `hypergpu_fl.node.client_app` does. Ray's processes persist; on a real node only a worker does."""
    if not from_run_config(context.run_config, os.environ).network.enable_simulation:
        from hypergpu_fl.node.worker import ask

        try:
            return ask(APP, message, context, owner=os.getppid())
        except OSError as error:
            log.warning("no worker can be kept, so every message loads everything anew: %s", error)
    from hypergpu_fl.node.client_app import app as client_app

    return client_app(message, context)
