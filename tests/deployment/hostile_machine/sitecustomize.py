"""What the owner of a hostile machine does to the node on it. Python imports it at its start, where PYTHONPATH says so.

The environment's ``HOSTILE`` names the part: ``numbers``, ``inflated``, ``hold-query`` or ``hold-train``. Each time the
part is played, the file that ``HOSTILE_NOTES`` names grows by a line, so that a test knows that it was.
"""

import json
import os

PART = os.environ.get("HOSTILE", "")
PIECE_BYTES = 3 * 2**20
TIMES = 500  # that an array names its one piece
RATES_BPS = (1e6, 5e-324)


def note():
    """Say that the part was played."""
    with open(os.environ["HOSTILE_NOTES"], "a") as notes:
        notes.write(f"{PART}\n")


def twist_replies(twist):
    """Let every answer of this node's ClientApp go through ``twist``."""
    from flwr.clientapp import ClientApp

    answer = ClientApp.__call__

    def hostile(self, message, context):
        reply = answer(self, message, context)
        if reply.has_content():
            twist(reply.content, context)
            note()
        return reply

    ClientApp.__call__ = hostile


def impossible_numbers(content, context):
    """Say of the link, on which no signature lies, what no link has."""
    from flwr.app import MetricRecord

    rate_bps = RATES_BPS["hello" not in content.metric_records]
    content["link"] = MetricRecord({"uplink-bps": rate_bps, "downlink-bps": rate_bps, "rtt-s": 1e-300})


def inflated(content, context):
    """Add an array whose one piece is named again and again to the first hello, and let it be every update."""
    import numpy as np
    from flwr.app import Array, ArrayRecord, ConfigRecord

    if "hello" in content.metric_records and "told" in context.state:
        return
    context.state["told"] = ConfigRecord({"once": True})
    array = Array(np.random.default_rng(0).integers(0, 256, PIECE_BYTES, dtype=np.uint8))
    if "update" in content.array_records:
        content["update"] = ArrayRecord({"blob": array})
    else:
        content["more"] = ArrayRecord({"more": array})


def name_pieces_again():
    """Let an array of that size name its piece so often."""
    from flwr.app import Array
    from flwr.supercore.inflatable.inflatable_object import add_header_to_object_body, get_object_body

    deflate = Array.deflate

    def again(self):
        content = deflate(self)
        if len(self.data) >= PIECE_BYTES:
            said = json.loads(get_object_body(content, Array))
            said["arraychunk_ids"] *= TIMES
            content = add_header_to_object_body(object_body=json.dumps(said).encode(), obj=self)
        return content

    Array.deflate = again


def hold_back(kind):
    """Announce answers to messages of this kind, and never upload them."""
    from flwr.supernode import start_client_internal

    push = start_client_internal._push_messages

    def withheld(*, send, push_object, **rest):
        kinds = []

        def announce(message, *more):
            kinds.append(message.metadata.message_type.split(".")[0])
            return send(message, *more)

        def upload(*pieces):
            if kinds[-1] != kind:
                push_object(*pieces)
            else:
                note()

        push(send=announce, push_object=upload, **rest)

    start_client_internal._push_messages = withheld


if PART == "numbers":
    twist_replies(impossible_numbers)
elif PART == "inflated":
    name_pieces_again()
    twist_replies(inflated)
elif PART.startswith("hold-"):
    hold_back(PART.removeprefix("hold-"))
