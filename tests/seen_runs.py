"""Runs on disk as a ServerApp leaves them while it works, for what shows runs: real log, real books, no training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rounds import a_pricing, node_key
from sqlalchemy import delete, insert

from hypergpu_fl.chain import outbox
from hypergpu_fl.ledger import database
from hypergpu_fl.ledger.books import Books, open_session
from hypergpu_fl.ledger.bundle import session_id
from hypergpu_fl.ledger.contribution import WEIGHT_UNIT, Contribution, CreditedContribution, hash_blob, hash_metrics
from hypergpu_fl.ledger.identity import sign_contribution
from hypergpu_fl.ledger.rewards import Pay, RewardDistribution
from hypergpu_fl.ledger.sealing import Refusal, RoundSeal, seal_round
from hypergpu_fl.network import registry
from hypergpu_fl.network.registry import NodeRecord
from hypergpu_fl.server.round_tables import RoundTables
from strategies.errors import Reason
from strategies.event_log import EventLog
from strategies.planning import Compression
from strategies.round.commands import AddUpdate, CloseRound, Command, Exclude, Open, Refuse, SendOrder
from strategies.round.events import Answered, Ended, Evaluated, Event, Joined, Published, Reading, RoundDue, Sent
from strategies.round.rules import Rules
from strategies.settings import Settings

BUDGET = 10**15
NOW_S = 1_800_000_000.0


class SeenRun:
    """Writes a run round by round. In every round the node of row ``failing`` brings nothing, for ``reason``."""

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        wanted: int = 20,
        failing: int | None = None,
        reason: Reason = Reason.MALFORMED,
    ) -> None:
        folder.mkdir(parents=True)
        self.reason = reason
        self.folder, self.names, self.failing = folder, names, failing
        self.rounds, self.at_s, self.orders = 0, 0.0, 0
        training = {"dataset": "digits", "model_architecture": "mlp", "rounds": wanted, "num_nodes": len(names)}
        (folder / "config.json").write_text(json.dumps({"training": training, "network": {"enable_simulation": True}}))
        rules = Rules(
            Settings(cohort=len(names), session=bytes(32)), 650, (Compression("raw", 1.0, 1.0),), "random", "x", "y"
        )
        self.log = EventLog(folder / "events.jsonl", rules)
        self._say(Published(0.0, "00" * 32, 1.0, ()))
        for name in names:
            self._say(Joined(0.0, name, 100))
        self.engine = database.connect(folder / "run.db")
        for metadata in (database.metadata, outbox.metadata, registry.metadata):
            metadata.create_all(self.engine)
        contract, coordinator, salt = node_key(90).address, node_key(91).address, bytes(32)
        self.session = session_id(31337, contract, coordinator, salt)
        record = {
            "id": self.session,
            "salt": salt,
            "chain_id": 31337,
            "contract": contract,
            "budget": BUDGET,
            "base_pay": 0,
        }
        with self.engine.begin() as connection:
            open_session(connection, record | {"coordinator": coordinator, "simulated_keys": 1})
        self.head, self.rewards = self.session, RewardDistribution(self.session, {})
        self.tables = RoundTables(self.engine, last_round=0)
        self.first_orders: dict[int, int] = {}

    def begin(self) -> None:
        """Send every node its order."""
        self.rounds += 1
        orders = [self.orders + row for row in range(len(self.names))]
        self.orders += len(orders)
        sends = [
            SendOrder(o, row, self.rounds, self.rounds - 1, 12, 32, "int8", "int8", -1, -1, 60.0)
            for row, o in enumerate(orders)
        ]
        self._say(RoundDue(self.at_s, self.rounds), Open(self.rounds, 9.0), *sends)
        self._say(Sent(self.at_s, tuple(orders), (900,) * len(orders)))
        self._started_s, self._first = self.at_s, orders[0]

    def end(self, *, loss: float, accuracy: float) -> None:
        """Let every node answer, and close, measure and seal the round."""
        counted = [row for row in range(len(self.names)) if row != self.failing]
        for row in range(len(self.names)):
            took_s = 0.4 + 0.01 * row
            reading = Reading(
                *(200 + row, "ab" * 32, took_s, 900.0, 200.0 + row, 1.0, 0.02, 0.1, 0.15, 0.1),
                samples=384.0,
                loss=loss,
            )
            answer: list[Command] = [AddUpdate(self._first + row, row, 1.0, 12, 1.0, 0)]
            if row == self.failing:
                answer = [Refuse(self._first + row, row, self.reason, "<img src=x onerror=alert(1)>")]
                answer += [Exclude(row, self.at_s + 120.0)] if self.rounds == 3 else []
            self._say(Answered(self._started_s + took_s, self._first + row, reading), *answer)
        self.at_s = self._started_s + 1.0
        base, model = (hash_blob(b"model %d" % version) for version in (self.rounds - 1, self.rounds))
        weights = (1 / len(counted),) * len(counted)
        sizes = (900 * len(self.names), sum(200 + row for row in counted))
        close = CloseRound(
            *(self.rounds, self._started_s, self.at_s, tuple(range(len(self.names))), weights, 0, *sizes),
            base_model=base.hex(),
            model=model.hex(),
        )
        self._say(Ended(self.at_s))
        self._say(Published(self.at_s, model.hex(), 1.0, ()), close)
        self._say(Evaluated(self.at_s, loss))
        mark = self.log.sync()
        rows = [self._row(row, row in counted) for row in range(len(self.names))]
        self.tables.add(self.rounds, {"accuracy": accuracy}, rows)
        self._book(counted, base, model, bytes.fromhex(mark.head))

    def round(self, *, loss: float, accuracy: float) -> None:
        """A whole round."""
        self.begin()
        self.end(loss=loss, accuracy=accuracy)

    def finish(self, *, failure: str | None = None) -> None:
        """Write the report that ends a run."""
        status = {"run": self.folder.name, "status": "failed" if failure else "completed", "failure": failure}
        told = {"rounds": self.rounds, "versions": {"python": "3.11.7"}}
        (self.folder / "report.json").write_text(json.dumps(status | told, indent=1))

    def earned(self) -> dict[str, int]:
        """Name -> wei that a node has earned so far."""
        names = {node_key(row).address: name for row, name in enumerate(self.names)}
        return {names[address]: wei for address, wei in self.rewards.cumulative.items()}

    def close(self) -> None:
        self.log.close()
        self.engine.dispose()

    def _say(self, event: Event, *commands: Command) -> None:
        self.log.append(event, commands)

    def _book(self, counted: Sequence[int], base: bytes, model: bytes, log_head: bytes) -> None:
        credited = []
        for row in counted:
            update = hash_blob(b"update %d %d" % (self.rounds, row))
            signed = Contribution(self.session, self.rounds, base, update, 100, hash_metrics({"loss": 0.5}))
            signature = sign_contribution(node_key(row), signed)
            weight = WEIGHT_UNIT // len(counted)
            credited.append(
                CreditedContribution(signed, node_key(row).address, signature, weight, 100 + row if row else -50)
            )
        refused = [Refusal(self.names[self.failing], str(self.reason), "x")] if self.failing is not None else []
        seal = RoundSeal(self.rounds, base, model, credited, refused, {}, log_head, a_pricing(len(counted)))
        sealed = seal_round(seal, before=self.head, rewards=self.rewards, pay=Pay(BUDGET))
        self.head, self.rewards = sealed.head, sealed.rewards
        nodes = [asdict(self._record(row)) | {"device": {"gpu": "NVIDIA H200"}} for row in range(len(self.names))]
        with self.engine.begin() as connection:
            Books(self.session).record(connection, sealed)
            connection.execute(delete(registry.nodes))
            connection.execute(insert(registry.nodes), nodes)

    def _row(self, row: int, counted: bool) -> dict[str, object]:
        verdict = "counted" if counted else "refused"
        fields = {"round": self.rounds, "node": self.names[row], "attempt": 1, "verdict": verdict}
        return fields | {"weight": 0.1, "total_s": 0.4, "download_s": 0.1, "compute_s": 0.15, "upload_s": 0.1}

    def _record(self, row: int) -> NodeRecord:
        bad = row == self.failing
        return NodeRecord(
            self.names[row],
            str(row),
            NOW_S,
            node_key(row).address,
            status="excluded" if bad else "online",
            heartbeat_s=NOW_S,
            last_seen_s=NOW_S,
            tries=self.rounds,
            successes=0 if bad else self.rounds,
            failures_in_a_row=3 if bad else 0,
            excluded_until_s=NOW_S + 60 if bad else None,
            last_failure="malformed: <img src=x onerror=alert(1)>" if bad else "",
            rtt_s=0.01 * 1.6**row,
            jitter_s=0.001,
            loss_rate=0.001,
            uplink_bps=40e6 / 1.5**row,
            downlink_bps=90e6 / 1.5**row,
            quality=max(0.05, 0.9 - 0.1 * row),
            codec="int8",
            bytes_up=200,
        )
