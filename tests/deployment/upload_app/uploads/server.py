"""One round with a deadline, then the wait for what came too late; writes what it saw."""

import json
import time
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from strategies import wire
from strategies.arrivals import Terms, WallArrivals

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    arrivals = WallArrivals(grid)
    while len(list(grid.get_node_ids())) < context.run_config["nodes"]:
        time.sleep(0.2)
    asked = [Message(RecordDict(), node_id, "query") for node_id in grid.get_node_ids()]
    rounds = []
    for messages, deadline_s in ((asked, float(context.run_config["deadline_s"])), ([], 240.0)):
        arrivals.terms = terms = Terms(deadline_s, wanted=lambda: True, refill=lambda: ())
        began_s = time.monotonic()
        replies = [wire.numbers(r.content, wire.TIMING) for r in arrivals.send_and_receive(messages) if r.has_content()]
        rounds.append({"deadline_s": terms.deadline_s, "seconds": time.monotonic() - began_s, "replies": replies})
    Path(str(context.run_config["out"])).write_text(json.dumps(rounds))
