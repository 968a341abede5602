"""What the round's machine costs: seconds and bytes of log for each event, and seconds to replay a run.

Nodes are simulated without training: each has a log-normal link and processor and takes the time that follows from
them, and one order in fifty fails. Everything else is the machine that `hypergpu run` uses, with its log.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zstandard

from hypergpu_fl.codec.payload import COMPRESSIONS
from strategies import lineup
from strategies.fleet.link import LinkSample
from strategies.model.sketch import SIZE as SKETCHED
from strategies.model.sketch import written
from strategies.prose import amount
from strategies.round.commands import Command, SendOrder
from strategies.round.events import (
    Answered,
    Ended,
    Evaluated,
    Event,
    Failed,
    Joined,
    Probed,
    Published,
    Reading,
    RoundDue,
    Sent,
)
from strategies.round.lines import event_line, rules_line
from strategies.round.replay import Replay, replay
from strategies.round.rules import Rules
from strategies.round.state import State
from strategies.round.step import step
from strategies.settings import Settings

MODEL_VALUES = 11_250_000  # ResNet-18
SEED = 0
FAILING = 0.02  # of all orders
SAMPLES_PER_STEP = 32


@dataclass
class Played:
    """A played run: the log's lines, and the processor seconds of each event by its kind."""

    state: State
    lines: list[bytes]
    head: str
    taken_s: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def by(cls, rules: Rules) -> Played:
        """A new run."""
        line, head = rules_line(0, rules, "")
        return cls(State(rules), [line], head)

    def tell(self, event: Event) -> list[Command]:
        """Give the machine an event; only the machine's own processor time is measured."""
        start_s = time.thread_time()
        _, commands = step(self.state, event)
        self.taken_s.setdefault(event.kind, []).append(time.thread_time() - start_s)
        line, self.head = event_line(len(self.lines), event, commands, self.head)
        self.lines.append(line)
        return commands


def run_replay(
    *,
    nodes: Sequence[int] = (1_000,),
    cohort: int = 32,
    rounds: int = 1_000,
    policy_name: str = "network_aware",
    progress: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """One row for each fleet size.

    Returns
    -------
    list of dict
        ``nodes, cohort, rounds, events, event_ms_median, event_ms_p99, round_due_ms_median, round_due_ms_p99, replay_s,
        bytes_per_event``. ``replay_s`` is the processor time to read and replay the whole log; bytes are those after
        Zstandard at its default level 3.
    """
    rows = []
    for count in nodes:
        run = play(count, cohort=cohort, rounds=rounds, policy_name=policy_name, seed=SEED)
        start_s = time.process_time()
        folded = replay(run.lines)
        replay_s = time.process_time() - start_s
        _check(folded)
        every = np.concatenate([np.asarray(taken) for taken in run.taken_s.values()])
        row: dict[str, Any] = {"nodes": count, "cohort": cohort, "rounds": rounds, "events": folded.events}
        for name, taken in (("event", every), ("round_due", np.asarray(run.taken_s["round due"]))):
            row[f"{name}_ms_median"] = 1e3 * float(np.median(taken))
            row[f"{name}_ms_p99"] = 1e3 * float(np.quantile(taken, 0.99))
        row["replay_s"] = replay_s
        row["bytes_per_event"] = len(zstandard.compress(b"".join(run.lines))) / folded.events
        rows.append(row)
        progress(f"{amount(count, 'node'):>13}: {folded.events} events, folded again in {replay_s:.1f} s")
    return rows


def _check(folded: Replay) -> None:
    """Raise if the replay differs from the run: its figures would be worth nothing."""
    if folded.difference is not None or folded.broken is not None:
        raise RuntimeError(f"the run did not fold to itself: {folded.difference or folded.broken}")


def play(nodes: int, *, cohort: int, rounds: int, policy_name: str, seed: int) -> Played:
    """Play an asynchronous run with unequal nodes, which join at once and answer when their links let them."""
    rng = np.random.default_rng(seed)
    settings = Settings(cohort=cohort, mode="async", seed=seed)
    run = Played.by(lineup.rules(policy_name, settings, model_values=MODEL_VALUES, levels=COMPRESSIONS))
    ratios = {level.name: level.expected_ratio for level in COMPRESSIONS}
    middle, spread = np.log([0.08, 20e6, 50e6, 0.004]), np.array([0.5, 1.4, 1.4, 0.5])
    rtt_s, up_bps, down_bps, sample_s = np.exp(middle[:, None] + spread[:, None] * rng.normal(size=(4, nodes)))
    run.tell(Published(0.0, f"{0:064x}", 1.0, _sketch(rng)))
    for row in range(nodes):
        run.tell(Joined(0.0, f"node-{row}", 1 + int(100 * math.exp(0.8 * rng.normal()))))
        run.tell(Probed(0.0, row, LinkSample(rtt_s=rtt_s[row], uplink_bps=up_bps[row], downlink_bps=down_bps[row])))
    now_s, arrivals = 0.0, list[tuple[float, int, Event]]()

    def send(commands: Sequence[Command]) -> None:
        orders = [command for command in commands if isinstance(command, SendOrder)]
        if not orders:
            return
        sizes = [int(4 * MODEL_VALUES / ratios[order.downlink]) for order in orders]
        run.tell(Sent(now_s, tuple(order.order for order in orders), tuple(sizes)))
        for order, size in zip(orders, sizes, strict=True):
            row, samples = order.row, SAMPLES_PER_STEP * order.local_steps
            blob = int(4 * MODEL_VALUES / ratios[order.codec])
            down_s, work_s, up_s = 8 * size / down_bps[row], samples * sample_s[row], 8 * blob / up_bps[row]
            took_s = (2 * rtt_s[row] + down_s + work_s + up_s) * math.exp(0.1 * rng.normal())
            answer: Event = Failed(now_s + took_s, order.order, "gone")
            if rng.random() >= FAILING:
                loss = 2.0 / math.sqrt(order.round) * math.exp(0.1 * rng.normal())
                answer = Answered(
                    now_s + took_s,
                    order.order,
                    Reading(
                        blob_bytes=blob,
                        digest=rng.bytes(32).hex(),
                        norm=math.exp(0.1 * rng.normal()),
                        elapsed_s=took_s,
                        bytes_down=float(size),
                        bytes_up=float(blob),
                        rtt_s=rtt_s[row],
                        download_s=down_s,
                        upload_s=up_s,
                        compute_s=work_s,
                        samples=float(samples),
                        loss=loss,
                        squared_loss=loss**2,
                        sketch=_sketch(rng),
                    ),
                )
            heapq.heappush(arrivals, (now_s + took_s, order.order, answer))

    for round in range(1, rounds + 1):
        send(run.tell(RoundDue(now_s, round)))
        while run.state.open is not None and run.state.open.wanted and arrivals:
            now_s, _, answer = heapq.heappop(arrivals)
            send(run.tell(answer))
        run.tell(Ended(now_s))
        if run.state.open is not None:
            run.tell(Published(now_s, f"{round:064x}", 1.0, _sketch(rng)))
        run.tell(Evaluated(now_s, 2.0 / math.sqrt(round)))
    return run


def _sketch(rng: np.random.Generator) -> tuple[float, ...]:
    return tuple(map(written, rng.normal(size=SKETCHED).tolist()))
