"""Takes in a reply: reads, decodes and measures it, as far as it is fit to count."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from flwr.app import Message

from strategies import wire
from strategies.arrivals import Flight
from strategies.errors import Reason, Refused
from strategies.model.aggregation import Update
from strategies.model.global_model import GlobalModel
from strategies.model.sketch import update_sketch
from strategies.model.validation import check_base, check_update
from strategies.outcome import Attendant
from strategies.round.events import Reading, ReplyFault


@dataclass
class Received:
    """What is known of a reply; fields after a fault stay empty."""

    flight: Flight
    reply: wire.Reply | None = None
    norm: float | None = None
    update: Update | None = None
    admitted: Any = None
    held_out_loss: float | None = None
    sketch: tuple[float, ...] = ()
    fault: ReplyFault | None = None

    def reading(self) -> Reading | None:
        """What the machine learns: the server's measurements, and the node's claims where there are none."""
        if self.reply is None:
            return None
        timing, said = self.reply.timing, self.reply.metrics
        return Reading(
            blob_bytes=len(self.reply.blob),
            digest=self.reply.digest.hex(),
            norm=self.norm,
            elapsed_s=timing.arrived_s - timing.sent_s,
            bytes_down=timing.bytes_down,
            bytes_up=timing.bytes_up,
            rtt_s=timing.rtt_s,
            download_s=timing.download_s,
            upload_s=timing.upload_s,
            compute_s=said.get(wire.COMPUTE_S) if timing.compute_s is None else timing.compute_s,
            probe=self.reply.link,
            samples=said.get(wire.SAMPLES),
            loss=said.get(wire.LOSS),
            squared_loss=said.get(wire.SQUARED_LOSS),
            sketch=self.sketch,
        )


def receive(flight: Flight, reply: Message, *, model: GlobalModel, attendant: Attendant[Any]) -> Received:
    """Read a reply that is not an error, as far as possible. Raises nothing: a fault is part of the result."""
    received = Received(flight)
    try:
        read = received.reply = wire.Reply.read(reply, largest_bytes=4 * model.layout.size)
        update = model.payload.decode(read.blob)
        if flight.order is not None:
            check_base(update, flight.order.base)
        received.norm = check_update(update, size=model.layout.size, buffers=model.buffers)
        admitted = attendant.admit(flight, read)
        held_out_loss = attendant.measure(update, model.vector_P)
        if held_out_loss is not None and not math.isfinite(held_out_loss):
            raise Refused(Reason.NON_FINITE, f"with this update the model's held-out loss is {held_out_loss}")
        received.sketch = update_sketch(update)
        received.update, received.admitted, received.held_out_loss = update, admitted, held_out_loss
    except Refused as refusal:
        received.fault = ReplyFault(refusal.reason, refusal.detail)
    except Exception as error:  # hostile bytes may make a reader raise anything; one reply must not end a round
        unreadable = wire.malformed("the reply cannot be read", error)
        received.fault = ReplyFault(unreadable.reason, unreadable.detail)
    return received
