"""A real in-process transport for tests: a Grid whose nodes are plain functions."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from strategies import wire
from strategies.arrivals import Passage, Terms
from strategies.fleet import Fleet
from strategies.model.layout import Layout
from strategies.planning import Compression, FleetPlan

IDS = itertools.count(1)  # never the same twice in a process, as Flower's
Answer = Callable[[Message], RecordDict | Error]
LAYOUT = Layout.of({"w": np.zeros(6, np.float32), "b": np.zeros(2, np.float32)})
START = {"w": np.zeros(6, np.float32), "b": np.zeros(2, np.float32)}


class NodeGrid(Grid):
    """Answers each pushed message by calling the addressed node, after ``delays[node]`` wall seconds.

    A message whose TTL ends before that is answered by an error then, as Flower does.
    """

    def __init__(self, nodes: dict[int, Answer], delays: dict[int, float] | None = None) -> None:
        self.nodes = nodes
        self.delays = delays or {}
        self.online = set(nodes)
        self.refuses_to_send: set[int] = set()
        self._replies: dict[str, tuple[float, Message]] = {}
        self._lock = threading.Lock()

    def set_run(self, run: Any) -> None:
        self._run = run

    @property
    def run(self) -> Any:
        return self._run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return Message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self.online)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = f"message-{next(IDS)}"
            if node in self.refuses_to_send:
                continue
            try:
                answer = self.nodes[node](message)
            except Exception as error:  # a ClientApp that raises becomes an error reply of code 2
                answer = Error(code=2, reason=str(error))
            delay_s = self.delays.get(node, 0.0)
            if message.metadata.ttl < delay_s:
                delay_s, answer = message.metadata.ttl, Error(code=5, reason="the message expired")
            reply = Message(answer, reply_to=message)
            if isinstance(answer, Error):
                reply.metadata.__dict__["_src_node_id"] = 1  # as the SuperLink does
            with self._lock:
                ready_s = time.monotonic() + delay_s
                self._replies[message.metadata.message_id] = (ready_s, reply)
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        with self._lock:
            now_s = time.monotonic()
            ready = [i for i in message_ids if i in self._replies and self._replies[i][0] <= now_s]
            return [self._replies.pop(i)[1] for i in ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError


@dataclass
class Trainer:
    """A node that moves towards its own target, one step a tenth of the way."""

    partition: int
    examples: int = 64
    orders: list[wire.Order] = field(default_factory=list)

    def __call__(self, message: Message) -> RecordDict:
        if message.metadata.message_type == "query":
            hello = {wire.PARTITION: self.partition, wire.EXAMPLES: self.examples}
            return RecordDict({wire.HELLO: MetricRecord(hello)})
        order = wire.Order.read(message.content)
        self.orders.append(order)
        model = np.frombuffer(message.content.array_records[wire.MODEL][wire.BLOB].numpy().tobytes(), "<f4")
        target = np.random.default_rng(self.partition).standard_normal(LAYOUT.size).astype(np.float32)
        steps = order.local_steps
        update = (target - model) * np.float32(1 - 0.9**steps)
        loss = float(np.mean((target - model) ** 2)) + 0.1
        return reply_with(update, samples=steps * order.batch_size, loss=loss)


def reply_with(update: np.ndarray, *, samples: int = 64, loss: float = 1.0, **metrics: float) -> RecordDict:
    """A well-formed reply with this update."""
    blob = np.frombuffer(update.astype("<f4").tobytes(), np.uint8)
    numbers = {wire.SAMPLES: samples, wire.LOSS: loss, wire.SQUARED_LOSS: loss**2, **metrics}
    return RecordDict({wire.UPDATE: ArrayRecord({wire.BLOB: Array(blob)}), wire.METRICS: MetricRecord(numbers)})


def work(node: int, *, number: int = 0, local_steps: int = 1, batch_size: int = 1) -> Message:
    """An order without a model to speak of."""
    order = wire.Order(1, 0, bytes(32), local_steps, batch_size, "raw", 0, bytes(32), -1)
    return order.message(node, b"", number=number, ttl_s=1e6)


@dataclass
class Counting:
    """Terms of a round that ends at ``quota`` replies."""

    quota: int
    deadline_s: float
    refill: Callable[[], Iterable[Message]] = tuple
    replies: int = 0

    def take(self, reply: Message) -> None:
        """Count a reply."""
        self.replies += 1

    def terms(self) -> Terms:
        """As arrivals want them."""
        return Terms(self.deadline_s, lambda: self.replies < self.quota, self.refill)


@dataclass
class Links:
    """Simulated links that are a pure function of node and time sent."""

    seconds: Callable[[int, float], float]
    drops: Callable[[int, float], bool] = lambda node, sent_s: False
    sample_s: float = 0.001

    def passage(self, node_id: int, *, sent_s: float, bytes_down: int, bytes_up: int, samples: float) -> Passage:
        seconds = self.seconds(node_id, sent_s)
        return Passage(
            download_s=0.4 * seconds,
            compute_s=samples * self.sample_s,
            upload_s=0.5 * seconds,
            rtt_s=0.1 * seconds,
            delivered=not self.drops(node_id, sent_s),
        )


def fleet_of(examples: Sequence[int], **columns: Sequence[float]) -> Fleet:
    """A fleet with these columns set."""
    fleet = Fleet()
    fleet.enrol_all([f"node-{i}" for i in range(len(examples))], examples=examples, sample_s=[0.001] * len(examples))
    for name, values in columns.items():
        getattr(fleet, name)[:] = values
    return fleet


def plan_of(predicted_s: Sequence[float], **columns: Sequence[float]) -> FleetPlan:
    """A plan with these predictions; compute and upload take a third each unless told."""
    seconds = np.asarray(predicted_s, dtype=np.float64)
    return FleetPlan(
        local_steps=np.asarray(columns.get("local_steps", [10] * seconds.size), dtype=np.int64),
        level=np.zeros(seconds.size, np.int64),
        predicted_s=seconds,
        compute_s=np.asarray(columns.get("compute_s", seconds / 3), dtype=np.float64),
        upload_s=np.asarray(columns.get("upload_s", seconds / 3), dtype=np.float64),
        deadline_s=float("inf"),
        batch_size=10,
        levels=[Compression("raw", 1.0)],
    )
