"""A run of the real server among hostile nodes, from task to books; there is no chain.

Four nodes of nine are honest. They train the real task; only the ClientApp around it, which hostile bytes never reach,
is left out for speed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import Error, Message, RecordDict
from hostile_records import Move, drafted, hostile_hello, hostile_reply
from torch import Tensor, nn

from hypergpu_fl.bench.attacks import HostileNode
from hypergpu_fl.bench.in_process import InProcessGrid
from hypergpu_fl.codec import encode
from hypergpu_fl.config import Config, to_run_config
from hypergpu_fl.config.models import DENSE_LEVELS
from hypergpu_fl.errors import RunFailed
from hypergpu_fl.ledger.identity import derive_simulated_key
from hypergpu_fl.node.client_app import app
from hypergpu_fl.node.local_task import local_task
from hypergpu_fl.node.replies import hello_of, reply_of
from hypergpu_fl.server import checkpoint
from hypergpu_fl.server.server_app import run
from hypergpu_fl.settlement import load_bundle, verify
from hypergpu_fl.task import TorchTask, TrainContext
from strategies import wire
from strategies.engine import Engine
from strategies.event_log import FILE
from strategies.fleet.columns import COLUMNS
from strategies.round.replay import replay
from strategies.round.state import State

HONEST, HOSTILE, ROUNDS = 4, 5, 8
STRANGERS = 12  # want the last hostile node's share, and are asked who they are in every round
LAST = HONEST + HOSTILE - 1  # share
CPU = torch.device("cpu")
OWN_DEADLINE = "fedcs"  # a policy that waits for no link slower than it expected
NOT_YET = {name for name, new in COLUMNS.items() if new != new}  # columns in which NaN stands for never


class Counted(nn.Module):
    """What a model may hold besides parameters and BatchNorm: a table, a mask, a small counter, a moving average."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("place", torch.arange(width).flip(0))
        self.register_buffer("mask", torch.ones(width, dtype=torch.bool))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("reach", torch.ones(2))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
            self.reach.mul_(0.9).add_(0.1 * inputs.detach().abs().mean())
        return inputs[:, self.place] * self.mask * (1 + self.reach.mean()).log()


class Small(TorchTask):
    """Three clusters, told apart by a model with all kinds of buffers."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), Counted(6), nn.Linear(6, 3))

    def data(self, partition: int | None) -> Any:
        generator = torch.Generator().manual_seed(99 if partition is None else partition)
        targets = torch.randint(3, (40 if partition is None else 16 + partition,), generator=generator)
        inputs = torch.randn((targets.numel(), 4), generator=generator)
        inputs[torch.arange(targets.numel()), targets] += 2
        return inputs, targets

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"accuracy": (model(batch[0]).argmax(dim=1) == batch[1]).float()}


@dataclass(frozen=True)
class Plan:
    """A run: its settings, and what hostile nodes do, message by message. Beyond its moves a hostile node is honest."""

    replies: list[Move]
    hellos: list[Move]
    mode: str = "async"
    policy: str = "network_aware"
    aggregation: str = "mean"
    scoring: str = "aumann_shapley"
    optimizer: str = "fedavg"
    codec: str = "auto"
    latency_ms: float = 50.0
    keep_updates_mb: float = 1.0

    def config(self, name: str) -> Config:
        """As the server reads it."""
        latency_ms = 50.0 if self.policy == OWN_DEADLINE else self.latency_ms
        needs_dense = self.aggregation in ("median", "trimmed_mean") and self.codec not in DENSE_LEVELS
        return Config.model_validate(
            {
                "training": {
                    "task": f"{__name__}:Small",
                    "num_nodes": HONEST + HOSTILE,
                    "rounds": ROUNDS,
                    "local_steps": "2",
                    "batch_size": 8,
                    "learning_rate": 0.1,
                    "aggregation": self.aggregation,
                    "server_optimizer": self.optimizer,
                    "server_learning_rate": 1.0 if self.optimizer == "fedavg" else 0.1,
                },
                "network": {
                    "mode": self.mode,
                    "policy": self.policy,
                    "codec": "int8" if needs_dense else self.codec,
                    "cohort": HONEST + HOSTILE,
                    "profile": "custom",
                    "base_latency_ms": latency_ms,
                    "deadline_s": 0.0 if latency_ms < 1e3 else 4e4,  # nobody knows of such links beforehand
                    "sample_ms": 1.0,
                },
                "blockchain": {
                    "enabled": False,
                    "scoring": self.scoring,
                    "keep_updates_mb": self.keep_updates_mb,
                },
                "system": {"run_name": name, "device": "cpu"},
            }
        )


class FuzzedGrid(InProcessGrid):
    """Nodes in this process; those of the last ``HOSTILE`` shares make the moves of a plan, as they are asked."""

    def __init__(self, plan: Plan, config: Config, folder: Path) -> None:
        super().__init__(app, HONEST + HOSTILE, to_run_config(config), state_dir=folder)
        self.sent = 0  # hostile messages
        self._replies, self._hellos = (
            [m for m in moves[::-1] for _ in range(m.times)] for moves in (plan.replies, plan.hellos)
        )
        self.engine: Engine | None = None
        self._local = local_task(config)
        self._nodes = {
            share: HostileNode(share, derive_simulated_key(config.training.seed, share), self._local.layout)
            for share in range(HONEST + HOSTILE)
        }
        self._folder = folder

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; between two rounds, when it is asked, the state must be sound."""
        if self.engine is not None and self.engine.state.open is None:
            check_state(self.engine)
        return range(1, HONEST + HOSTILE + STRANGERS + 1)

    def _answer(self, message: Message) -> Message:
        node_id = message.metadata.dst_node_id
        share = min(node_id - 1, LAST)
        node, hostile = self._nodes[share], share >= HONEST
        answer: RecordDict | Error
        if wire.ORDER not in message.content.config_records:
            session = wire.invited_to(message.content)
            answer = self._hello(node, share, node_id, session)
            if hostile and self._hellos:
                self.sent += 1
                answer = hostile_hello(node, session, node_id, answer, self._hellos.pop())
        else:
            answer = self._reply(node, share, wire.Order.read(message.content))
        return Message(answer, reply_to=message)

    def _hello(self, node: HostileNode, share: int, node_id: int, session: bytes) -> RecordDict:
        return hello_of(
            share,
            self._local.task.examples(share),
            identity=self._local.identity,
            device={},
            link={},
            key=node.key,
            session=session,
            node_id=node_id,
        )

    def _reply(self, node: HostileNode, share: int, order: wire.Order) -> RecordDict | Error:
        """An honest reply, or what the plan makes of it."""
        assert self.engine is not None
        local, layout = self._local, self._local.layout
        model = self.engine.model
        local.task.load(local.model, layout.restore(model.vector_P, model.buffers))
        context = TrainContext(
            steps=order.local_steps, batch_size=order.batch_size, seed=order.round, device=CPU, folder=self._folder
        )
        result = local.task.train(local.model, share, context)
        trained = local.task.arrays(local.model)
        delta_P = layout.flatten(trained) - model.vector_P
        blob = encode(order.codec, delta_P, layout, layout.buffers(trained), base=order.base)
        examples = local.task.examples(share)
        content = reply_of(order, result, blob, examples=examples, compute_s=None, link={}, key=node.key)
        if share < HONEST or not self._replies:
            return content
        self.sent += 1
        draft = drafted(order.codec, delta_P, layout.buffers(trained), layout, order.base)
        return hostile_reply(node, order, content, draft, self._replies.pop())


def play(plan: Plan, folder: Path) -> FuzzedGrid:
    """Run, and check what must hold whatever hostile nodes send."""
    folder.mkdir()
    config = plan.config(folder.name)
    grid = FuzzedGrid(plan, config, folder / "nodes")

    def watched(pipeline: Any) -> Any:
        grid.engine = pipeline.engine
        return pipeline

    try:
        run(config, grid, folder, watched=watched)
    except RunFailed as failure:  # most of the nodes are hostile, and may leave no round whose model can be kept
        assert failure.cause.startswith("nothing was trained: no round's model was kept"), failure
    assert grid.engine is not None
    check_state(grid.engine)
    check_run(folder, grid.engine)
    return grid


def check_state(engine: Engine) -> None:
    """Every number of the machine's state is finite, and it can be saved and restored; so it is with the model."""
    for path, value in numbers_of(engine.state, "state"):
        never = value != value and path.rpartition(".")[2] in NOT_YET
        assert never or math.isfinite(value), f"{path} is {value}"
    saved = engine.state.json()
    text = json.dumps(saved, allow_nan=False)
    assert State.restored(engine.state.rules, json.loads(text)).json() == saved
    _, vectors = engine.model.state()
    for name, vector in vectors.items():
        assert np.isfinite(vector).all(), f"{name} is not finite"
    for start, stop in engine.layout.runs(("running_var",)):
        assert (engine.model.vector_P[start:stop] >= 0).all()


def check_run(folder: Path, engine: Engine) -> None:
    """Log, report, checkpoint and books are whole: each can be read again, and says the same."""
    found = replay((folder / FILE).read_bytes().splitlines(keepends=True))
    assert found.difference is None and found.broken is None and found.rounds == ROUNDS, found.difference
    assert found.state is not None and found.state.json().keys() == engine.state.json().keys()
    assert found.state.json() == engine.state.json()
    report = json.loads((folder / "report.json").read_text(), parse_constant=_refuse)
    assert len(report["history"]) == ROUNDS
    assert (report["status"] == "completed") == any(entry["kept"] for entry in report["history"])
    saved = checkpoint.load_model(folder / "checkpoints")
    assert all(np.isfinite(vector).all() for vector in saved.vectors.values())
    np.testing.assert_array_equal(saved.vectors["buffer/3.place"], np.arange(6)[::-1])
    assert saved.vectors["buffer/3.mask"].all()
    verify(load_bundle(folder / "ledger.json"))


def _refuse(constant: str) -> Any:
    raise AssertionError(f"the report holds {constant}")


def numbers_of(value: Any, path: str) -> Iterable[tuple[str, float]]:
    """Every number below ``value``, with its path."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f":
            yield from ((path, float(each)) for each in value.reshape(-1))
    elif isinstance(value, float):
        yield path, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from numbers_of(each, f"{path}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from numbers_of(each, path)
    elif is_dataclass(value):
        for each in fields(value):
            yield from numbers_of(getattr(value, each.name), f"{path}.{each.name}")
    elif hasattr(value, "__dict__") and not isinstance(value, Enum | type):
        yield from numbers_of(vars(value), path)
