"""Flower's own pool of Ray actors, with a simulated node that ends its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

POOL = """
import json, os, sys
import ray
from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
from strategies.flower_internals import renew_dead_actors

class Message:
    def __init__(self, partition):
        self.partition = partition

class Context:
    def __init__(self, partition):
        self.node_config = {"partition-id": partition}

def app(message, context):
    if message.partition == 1:
        os._exit(1)
    return message

ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", _temp_dir=sys.argv[1])
backend = RayBackend({"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
backend.build(lambda: app)
renew_dead_actors()
found = []
for partition in [0, 1, 2, 1, 3, 4, 5]:
    try:
        backend.process_message(Message(partition), Context(partition))
        found.append("answered")
    except Exception as error:
        found.append(type(error).__name__)
print(json.dumps(found), flush=True)
"""


def test_a_simulated_node_that_crashes_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    environ = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="hg-", dir="/tmp", ignore_cleanup_errors=True) as short:  # Ray's sockets
        done = subprocess.run(
            [sys.executable, "pool.py", short],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))  # Ray prints, too
    assert [number for number, answer in enumerate(answers) if answer != "answered"] == [1, 3], answers
