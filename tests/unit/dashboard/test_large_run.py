"""A thousand nodes and a thousand rounds: half a million orders in a log of hundreds of megabytes."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from hypergpu_fl.ledger import database
from hypergpu_fl.ledger.database import connect
from hypergpu_fl.network import registry

NODES, ROUNDS, COHORT = 1000, 1000, 500


@pytest.fixture(scope="module")
def large_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines as the server writes them, but for their hashes, which nobody who looks checks."""
    folder = tmp_path_factory.mktemp("runs") / "large"
    folder.mkdir()
    training = {"dataset": "digits", "model_architecture": "mlp", "rounds": ROUNDS + 1}
    (folder / "config.json").write_text(json.dumps({"training": training, "network": {"enable_simulation": True}}))
    end = ',"hash":"' + "0" * 64 + '"}\n'
    with (folder / "events.jsonl").open("w") as log:
        log.write('{"n":0,"rules":{}' + end)
        for row in range(NODES):
            event = {"at_s": 0.0, "name": f"node-{row}", "examples": 100, "kind": "joined"}
            log.write('{"n":0,"event":' + json.dumps(event, separators=(",", ":")) + ',"commands":[]' + end)
        for round in range(1, ROUNDS + 1):
            log.write(a_round(round, end))
    write_books(folder / "run.db")
    return folder


def write_books(path: Path) -> None:
    """As many rewards as updates, and the registry: what is read of the database besides the log."""
    engine = connect(path)
    for metadata in (database.metadata, registry.metadata):
        metadata.create_all(engine)
    engine.dispose()
    accounts = [f"0x{row:040x}" for row in range(NODES)]
    with contextlib.closing(sqlite3.connect(path)) as books, books:
        books.executemany(
            "INSERT INTO rewards VALUES (x'00', ?, ?, '2000000000000', '0')",
            ((round, accounts[(round * 7 + i) % NODES]) for round in range(1, ROUNDS + 1) for i in range(COHORT)),
        )
        books.executemany(
            "INSERT INTO nodes VALUES (?, '1', ?, '{}', 'online', 0, 0, 0, 9, 9, 0, 0, NULL, '', "
            "0.01, 0.001, 0.0, 1e7, 2e7, 0.5, 'int8', 8152)",
            ((f"node-{row}", account) for row, account in enumerate(accounts)),
        )


def a_round(round: int, end: str) -> str:
    first, rows = round * COHORT, [(round * 7 + i) % NODES for i in range(COHORT)]
    at_s = float(round)
    sends = ",".join(
        f'{{"order":{first + i},"row":{row},"round":{round},"base":{round - 1},"local_steps":12,"batch_size":32,'
        '"codec":"int8","downlink":"int8","held":-1,"ack":-1,"ttl_s":60.0,"kind":"send"}'
        for i, row in enumerate(rows)
    )
    parts = [
        f'{{"n":1,"event":{{"at_s":{at_s},"number":{round},"kind":"round due"}},"commands":['
        f'{{"round":{round},"deadline_s":9.0,"kind":"open"}},{sends}]{end}'
    ]
    for i, row in enumerate(rows):
        parts.append(
            f'{{"n":1,"event":{{"at_s":{at_s + 0.5},"order":{first + i},"reading":{{"blob_bytes":8152,"digest":"'
            f'{"ab" * 32}","elapsed_s":0.5,"bytes_down":9553.0,"bytes_up":8280.0,"norm":1.52,"rtt_s":0.009,'
            '"download_s":0.001,"compute_s":0.4659,"upload_s":0.0033,"probe":{},"samples":160.0,"loss":1.39,'
            f'"squared_loss":2.6}},"kind":"answered"}},"commands":[{{"order":{first + i},"row":{row},"weight":1.25,'
            f'"steps":12,"staleness":0,"kind":"add"}}]{end}'
        )
    weights = ",".join([str(1 / COHORT)] * COHORT)
    parts.append(
        f'{{"n":1,"event":{{"at_s":{at_s + 0.6},"model":"{"cd" * 32}","norm":3.5,"kind":"published"}},"commands":['
        f'{{"round":{round},"started_s":{at_s},"ended_s":{at_s + 0.6},"selected":{json.dumps(rows)},'
        f'"weights":[{weights}],"late":0,"bytes_down":4776500,"bytes_up":4076000,"base_model":"{"ab" * 32}",'
        f'"model":"{"cd" * 32}","kind":"close"}}]{end}'
    )
    parts.append(f'{{"n":1,"event":{{"at_s":{at_s + 0.6},"loss":{1 / round},"kind":"evaluated"}},"commands":[]{end}')
    return "".join(parts)


MEASURE = """
import json, sys, time
from pathlib import Path
from hypergpu_fl.dashboard.run_view import RunView
from hypergpu_fl.output import to_json
begun = time.process_time()
view = RunView(Path(sys.argv[1])); view.poll(); to_json([view.summary(), view.rounds])
usable = time.process_time() - begun
rounds = len(view.rounds)
updates = []
for more in sys.stdin.read().split("\\0"):
    with open(sys.argv[1] + "/events.jsonl", "a") as log: log.write(more)
    begun = time.process_time(); view.poll(); to_json([view.summary(), view.rounds[-1], view.nodes()])
    updates.append(time.process_time() - begun)
begun = time.process_time(); to_json(len(view.round(500).works)); past = time.process_time() - begun
status = Path("/proc/self/status").read_text()  # not getrusage, which begins with the peak of the parent
peak = int(status.partition("VmHWM:")[2].split()[0]) / 1e3
wei = sum(int(node["wei"]) for node in view.nodes())
print(json.dumps([usable, rounds, len(view.rounds), wei, sorted(updates)[len(updates) // 2], past, peak]))
"""


@pytest.mark.slow
def test_it_is_usable_at_once_and_an_update_costs_next_to_nothing(large_log: Path) -> None:
    end = ',"hash":"' + "0" * 64 + '"}\n'
    more = "\0".join(a_round(round, end) for round in range(ROUNDS + 1, ROUNDS + 6))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(large_log)], input=more, capture_output=True, text=True, check=True
    )
    usable_s, rounds, after, wei, update_s, past_s, peak_mb = json.loads(done.stdout)
    log_mb = (large_log / "events.jsonl").stat().st_size / 1e6
    print(
        f"{log_mb:.0f} MB: usable {usable_s:.2f} s, update {update_s * 1e3:.0f} ms, past round {past_s * 1e3:.0f} ms,"
        f" peak {peak_mb:.0f} MB"
    )
    assert (rounds, after, wei) == (ROUNDS, ROUNDS + 5, 2 * 10**12 * ROUNDS * COHORT)
    assert usable_s <= 2.0 and update_s <= 0.05 and past_s <= 0.1 and peak_mb <= 200
