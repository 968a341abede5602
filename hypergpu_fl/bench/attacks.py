"""What a hostile node may do: each attack takes what an honest node would have sent, changes it, and signs it again.

``Attack.point`` is the number of a point in the threat list that `hypergpu bench hostile` goes through; 0 is for
attacks that belong to no single point.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import nn

from hypergpu_fl.codec import blob_record, decode, encode
from hypergpu_fl.ledger.identity import NodeKey
from hypergpu_fl.node.replies import enrolment, signed
from strategies import wire
from strategies.arrivals import Passage, VirtualLinks
from strategies.errors import Refused
from strategies.model.layout import Arrays, Layout, Vector

HONEST_ROUNDS: Final = 6  # before a node turns
LARGE_BYTES: Final = 32 * 2**20  # size of an update that is too large
AGES_S: Final = 1e6  # longer than any deadline


@dataclass
class HostileNode:
    """A hostile node: its number among the hostile ones, its key, and what it remembers.

    ``hellos`` and ``orders`` count the messages that it has answered; ``kept`` is an update to send again.
    """

    number: int
    key: NodeKey
    layout: Layout
    hellos: int = 0
    orders: int = 0
    kept: tuple[Vector, Arrays] | None = None

    def decoded(self, content: RecordDict) -> tuple[Vector, Arrays]:
        """The update in a reply."""
        update = decode(wire.row_of_bytes(content.array_records[wire.UPDATE][wire.BLOB]), self.layout)
        return update.dense(), dict(update.buffers)

    def put(self, content: RecordDict, order: wire.Order, vector_P: Vector, buffers: Arrays) -> None:
        """Put another update into a reply, encoded at the level that was ordered."""
        blob = encode(order.codec, vector_P, self.layout, buffers, base=order.base)
        content[wire.UPDATE] = blob_record(blob)

    def sign_hello(self, content: RecordDict, session: bytes, node_id: int) -> None:
        """Sign a changed hello; one that names no share keeps the honest signature."""
        share = content.metric_records[wire.HELLO][wire.PARTITION]
        if isinstance(share, int):
            content[wire.ENROLMENT] = enrolment(share, key=self.key, session=session, node_id=node_id)

    def sign(self, content: RecordDict, order: wire.Order) -> None:
        """Sign the changed reply; a reply that is out of all bounds keeps the honest signature."""
        try:
            metrics = wire.numbers(content, wire.METRICS)
        except Refused:
            return
        blob = bytes(wire.row_of_bytes(content.array_records[wire.UPDATE][wire.BLOB]))
        content[wire.CONTRIBUTION] = signed(order, blob, metrics, self.key)


Hello = Callable[[HostileNode, RecordDict], None]
Reply = Callable[[HostileNode, RecordDict, wire.Order], None]


def _as_it_is(*_: Any) -> None:
    """Change nothing."""


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack by name, and its point of the threat list.

    ``hello`` and ``reply`` change what is sent. ``passage`` changes how long a message takes, given its number among
    the node's messages. ``architecture`` is the model that the attack makes sense for, ``network`` what it needs of the
    network's settings. ``more_ids`` are the further node ids that each hostile node connects under.
    """

    name: str
    point: int
    hello: Hello = _as_it_is
    reply: Reply = _as_it_is
    passage: Callable[[int, Passage], Passage] = lambda number, passage: passage
    architecture: str = "mlp"
    network: Mapping[str, Any] = field(default_factory=dict)
    more_ids: int = 0


def twisted(node: HostileNode, attack: Attack, asked: Message, answer: Message) -> Message:
    """What a hostile node sends in place of an honest ``answer``."""
    if not answer.has_content():
        return answer
    content = answer.content
    if wire.ORDER not in asked.content.config_records:
        attack.hello(node, content)
        node.sign_hello(content, wire.invited_to(asked.content), asked.metadata.dst_node_id)
        node.hellos += 1
        return answer
    order = wire.Order.read(asked.content)
    attack.reply(node, content, order)
    node.sign(content, order)
    node.orders += 1
    return answer


@dataclass(frozen=True, slots=True)
class HostileLinks:
    """Links on which hostile nodes' messages take as long as the attack wants; ``sent`` counts their messages."""

    links: VirtualLinks
    attack: Attack
    hostile: frozenset[int]
    sent: Counter[int] = field(default_factory=Counter)

    def passage(self, node_id: int, *, sent_s: float, bytes_down: int, bytes_up: int, samples: float) -> Passage:
        """See ``strategies.arrivals.VirtualLinks.passage``."""
        honest = self.links.passage(node_id, sent_s=sent_s, bytes_down=bytes_down, bytes_up=bytes_up, samples=samples)
        if node_id not in self.hostile:
            return honest
        self.sent[node_id] += 1
        return self.attack.passage(self.sent[node_id], honest)


def _numbers(content: RecordDict, record: str, **numbers: Any) -> None:
    known: Mapping[str, Any] = content.metric_records.get(record) or {}
    content[record] = MetricRecord({**known, **{name.replace("_", "-"): value for name, value in numbers.items()}})


def _impossible_link(node: HostileNode, content: RecordDict, *_: Any) -> None:
    rate = 5e-324 if node.orders else 1e6
    _numbers(content, wire.LINK, uplink_bps=rate, downlink_bps=rate, rtt_s=1e-300, loss_rate=-1.0)


def _slow_processor(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    _numbers(content, wire.METRICS, samples=1.0, compute_s=1e5)


def _impossible_numbers(node: HostileNode, content: RecordDict) -> None:
    _impossible_link(node, content)
    _overflowing_examples(node, content)


def _overflowing_examples(node: HostileNode, content: RecordDict) -> None:
    _numbers(content, wire.HELLO, num_examples=(1e308, 1e19, 2**62)[node.number % 3])


def _slow_passage(number: int, passage: Passage) -> Passage:
    return replace(passage, compute_s=100 * passage.total_s)


def _slowest_claims(node: HostileNode, content: RecordDict) -> None:
    """The slowest link that can be; the claim holds until the server has measured something."""
    _numbers(content, wire.LINK, uplink_bps=1e3, downlink_bps=1e3, rtt_s=60.0)


def _never(number: int, passage: Passage) -> Passage:
    return replace(passage, upload_s=AGES_S)


def _hoarded_passage(number: int, passage: Passage) -> Passage:
    return replace(passage, upload_s=10 * passage.total_s) if number % 2 else passage


def _exploding_loss(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    if node.orders >= HONEST_ROUNDS:
        _numbers(content, wire.METRICS, loss=1e300, squared_loss=1e300)


def _negative_variance(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    vector_P, buffers = node.decoded(content)
    for start, stop in node.layout.runs(("running_var",)):
        vector_P[start:stop] = -1e6
    counted = {name: np.full_like(array, 2**62 if array.dtype.itemsize == 8 else 1) for name, array in buffers.items()}
    node.put(content, order, vector_P, counted if node.orders % 2 else buffers)


def _forged_statistics(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    vector_P, buffers = node.decoded(content)
    for start, stop in node.layout.runs(("running_mean",)):
        vector_P[start:stop] = 1e12
    for start, stop in node.layout.runs(("running_var",)):
        vector_P[start:stop] = -1e12
    node.put(content, order, vector_P, buffers)


def _exploding(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    """Four times the opposite of the honest update: its norm is not out of the ordinary."""
    vector_P, buffers = node.decoded(content)
    if node.orders >= HONEST_ROUNDS:
        node.put(content, order, np.float32(-4.0) * vector_P, buffers)


def _hostile_statistics(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    vector_P, buffers = node.decoded(content)
    for start, stop in node.layout.runs(("running_mean", "running_var")):
        vector_P[start:stop] = 1e4
    node.put(content, order, vector_P, buffers)


def _moved_places(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    vector_P, buffers = node.decoded(content)
    node.put(content, order, vector_P, {name: array - 1000 for name, array in buffers.items()})


def _large_hello(node: HostileNode, content: RecordDict) -> None:
    texts = {f"text {index}": "x" * 2**20 for index in range(18)}
    content[wire.DEVICE] = ConfigRecord({**content.config_records[wire.DEVICE], **texts})


def _large_reply(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    if node.orders % 2:
        _numbers(content, wire.METRICS, **{f"metric.{index}": 1.0 for index in range(1000)})
    else:
        content[wire.UPDATE] = ArrayRecord({wire.BLOB: Array(np.zeros(LARGE_BYTES, np.uint8))})


def _claimed_examples(node: HostileNode, content: RecordDict) -> None:
    _numbers(content, wire.HELLO, num_examples=10**12)


def _metered_examples(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    _numbers(content, wire.METRICS, num_examples=10**12)


def _anothers_share(node: HostileNode, content: RecordDict) -> None:
    _numbers(content, wire.HELLO, partition_id=node.number)


def _further_share(node: HostileNode, content: RecordDict) -> None:
    if node.hellos:
        _numbers(content, wire.HELLO, partition_id=1000 + 100 * node.number + node.hellos)


def _empty(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    content[wire.UPDATE] = ArrayRecord({wire.BLOB: Array(np.zeros(0, np.uint8))})


def _large_first_update(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    if not node.orders:
        _scaled_to(99.0, node, content, order)


def _long_first_updates(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    if node.orders < 2:
        _scaled_to(60.0, node, content, order)


def _scaled_to(norm: float, node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    vector_P, buffers = node.decoded(content)
    length = float(np.linalg.norm(vector_P.astype(np.float64))) or 1.0
    node.put(content, order, vector_P * np.float32(norm / length), buffers)


def _sent_again(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    node.kept = node.kept or node.decoded(content)
    node.put(content, order, *node.kept)


def _nearly_sent_again(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    node.kept = node.kept or node.decoded(content)
    vector_P, buffers = node.kept
    noise_P = np.random.default_rng([node.number, order.round]).standard_normal(vector_P.size).astype(np.float32)
    node.put(content, order, vector_P + 1e-3 * np.abs(vector_P).max() * noise_P, buffers)


def _next_to_nothing(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    noise_P = np.random.default_rng([node.number, order.round]).standard_normal(node.layout.size).astype(np.float32)
    node.put(content, order, np.float32(1e-6) * noise_P, node.decoded(content)[1])


def _flipped(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    vector_P, buffers = node.decoded(content)
    node.put(content, order, -vector_P, buffers)


def _one_after_another(node: HostileNode, content: RecordDict, order: wire.Order) -> None:
    REPLIES[(node.orders + node.number) % len(REPLIES)](node, content, order)


def _any_hello(node: HostileNode, content: RecordDict) -> None:
    _impossible_link(node, content)
    _claimed_examples(node, content)
    if not node.hellos and node.number:
        (_anothers_share, _overflowing_examples)[node.number % 2](node, content)
    _large_hello(node, content)


def _any_passage(number: int, passage: Passage) -> Passage:
    return replace(passage, delivered=number % 4 != 3, upload_s=passage.upload_s if number % 5 else AGES_S)


def batch_norm(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The smallest model with statistics to forge, for ``training.model_architecture``."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * height * width, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, classes)
    )


def deep_batch_norm(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Fourteen layers with statistics, whose forgeries multiply, for ``training.model_architecture``."""
    channels, height, width = shape
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(channels * height * width, 32)]
    for _ in range(14):
        layers += [nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32)]
    return nn.Sequential(*layers, nn.Linear(32, classes))


class Places(nn.Module):
    """A model that looks its inputs up by a buffer of whole numbers, as windowed attention does."""

    place: torch.Tensor

    def __init__(self, values: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("place", torch.arange(values))
        self.layers = nn.Sequential(nn.Linear(values, 128), nn.ReLU(), nn.Linear(128, classes))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of images."""
        logits: torch.Tensor = self.layers(inputs.flatten(1)[:, self.place])
        return logits


def places(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A model with a buffer of whole numbers to forge, for ``training.model_architecture``."""
    return Places(math.prod(shape), classes)


PLACES: Final = f"{__name__}:places"
BATCH_NORM: Final = f"{__name__}:batch_norm"
DEEP: Final = f"{__name__}:deep_batch_norm"
ALL_AT_WORK: Final = {"cohort": 10}  # so that a round's quota cannot be filled without a hostile node
REPLIES: Final[tuple[Reply, ...]] = (
    _large_first_update,
    _impossible_link,
    _slow_processor,
    _exploding_loss,
    _negative_variance,
    _hostile_statistics,
    _large_reply,
    _metered_examples,
    _sent_again,
)
ALL: Final = Attack("all", 0, _any_hello, _one_after_another, _any_passage, BATCH_NORM)
SIGN_FLIP: Final = Attack("sign_flip", 8, reply=_flipped)
ATTACKS: Final[tuple[Attack, ...]] = (
    Attack("impossible_numbers", 1, hello=_impossible_numbers, reply=_impossible_link),
    Attack("slow_processor", 1, reply=_slow_processor, passage=_slow_passage, network=ALL_AT_WORK),
    Attack("claimed_speeds", 1, hello=_slowest_claims, passage=_never, network=ALL_AT_WORK),
    Attack("exploding_loss", 2, reply=_exploding_loss),
    Attack("negative_variance", 2, reply=_negative_variance, architecture=BATCH_NORM),
    Attack("hostile_statistics", 2, reply=_hostile_statistics, architecture=BATCH_NORM),
    Attack("moved_places", 2, reply=_moved_places, architecture=PLACES),
    Attack("forged_statistics", 2, reply=_forged_statistics, architecture=DEEP),
    Attack("exploding_updates", 2, reply=_exploding),
    Attack("too_much", 4, hello=_large_hello, reply=_large_reply),
    Attack("withheld", 5, passage=lambda number, passage: replace(passage, delivered=False)),
    Attack("trickled", 5, passage=_never),
    Attack("hoarded", 6, passage=_hoarded_passage),
    Attack("claimed_examples", 6, hello=_claimed_examples, reply=_metered_examples),
    Attack("anothers_share", 7, hello=_anothers_share),
    Attack("more_ids", 7, hello=_further_share, reply=_empty, more_ids=4),
    Attack("cold_start", 8, reply=_long_first_updates),
    Attack("sent_again", 9, reply=_sent_again),
    Attack("nearly_sent_again", 0, reply=_nearly_sent_again),
    Attack("next_to_nothing", 0, reply=_next_to_nothing),
    ALL,
)
