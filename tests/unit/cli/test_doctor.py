"""The doctor reports what it meets and never falls over."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from hypergpu_fl.cli import doctor
from hypergpu_fl.config import Blockchain, Config, load

Command = Callable[..., tuple[int, str, str]]


def statuses(findings: list[doctor.Finding]) -> dict[str, str]:
    return {finding.check: finding.status for finding in findings}


def test_a_machine_that_can_run_passes(hypergpu: Command) -> None:
    code, out, err = hypergpu("doctor", "--format", "json")
    rows = {row["check"]: row for row in json.loads(out)}
    assert (code, err) == (0, "")
    assert {"python", "flwr", "torch", "disk", "memory", "chain"} <= set(rows)
    assert rows["python"]["status"] == "ok"


def test_a_superlink_that_listens_is_timed_and_one_that_does_not_fails_the_check(hypergpu: Command) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (found,) = doctor.check_superlink(address)
        assert found.status == doctor.OK and "round trip" in found.found
    (gone,) = doctor.check_superlink(address)
    assert gone.status == doctor.MISSING and gone.remedy
    assert doctor.check_superlink("no-port")[0].status == doctor.MISSING
    code, out, err = hypergpu("doctor", "--superlink", address, "--format", "json")
    assert (code, err) == (1, "")
    assert json.loads(out)


def test_a_device_that_is_not_there_is_missing_only_if_it_is_asked_for() -> None:
    import torch

    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert doctor.check_device("auto")[0].status == doctor.NOTE
        assert doctor.check_device("cuda")[0].status == doctor.MISSING
    else:
        assert doctor.check_device("auto")[0].status == doctor.OK


def test_what_a_run_needs_and_lacks_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", ("flwr", "no-such-package"))
    assert statuses(doctor.check_packages()) == {"flwr": doctor.OK, "no-such-package": doctor.MISSING}
    monkeypatch.setattr(doctor, "_DISK_NEEDED_BYTES", 10**18)
    assert doctor.check_disk(tmp_path / "not" / "yet" / "made")[0].status == doctor.MISSING
    # tests may run as root, to whom nothing is read-only, and on one Python
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "cannot be written" in doctor.check_disk(tmp_path)[0].found
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 1))
    assert doctor.check_python()[0].status == doctor.MISSING


def test_what_was_passed_over_of_the_data_is_a_row(hypergpu: Command, tmp_path: Path) -> None:
    for pet in ("cat", "dog"):
        (tmp_path / "own" / pet).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), number).save(tmp_path / "own" / pet / f"{number}.png")
    (tmp_path / "own" / "dog" / "portrait.heic").write_bytes(b"not read")
    file = tmp_path / "own.toml"
    file.write_text("training.dataset = 'folder'\ntraining.num_nodes = 2\nblockchain.enabled = false\n")
    code, out, err = hypergpu("doctor", "--config", str(file), "--set", "training.data_root=own", "--format", "json")
    rows = {row["check"]: row for row in json.loads(out)}
    assert (code, err, rows["task"]["status"]) == (0, "", doctor.OK)
    assert rows["data"]["status"] == doctor.NOTE
    assert rows["data"]["found"].endswith("own: 1 passed over, with an unknown ending: dog/portrait.heic")


def test_a_check_that_breaks_is_a_row(tmp_path: Path) -> None:
    findings = doctor.examine(Config(), tmp_path, superlink="no..host:80")  # a name that Python's sockets choke on
    (broken,) = [f for f in findings if f.check == "superlink"]
    assert broken.status == doctor.MISSING and broken.found.startswith("UnicodeError: ")
    assert statuses(findings)["memory"] in (doctor.OK, doctor.NOTE), "the other checks are made all the same"


def test_a_chain_that_does_not_answer_is_missing_and_its_key_stays_hidden(hypergpu: Command) -> None:
    environ = {
        "HYPERGPU_BLOCKCHAIN__RPC_URL": "http://127.0.0.1:9/v2/abcdefgh12345678",
        "HYPERGPU_BLOCKCHAIN__KIND": "rpc",
        "HYPERGPU_BLOCKCHAIN__CHAIN_ID": "143",
    }
    (found,) = doctor.check_chain(load(environ=environ).config)
    assert (found.check, found.status) == ("chain 127.0.0.1", doctor.MISSING)
    assert "abcdefgh" not in found.found + found.remedy
    assert doctor.check_chain(Config(blockchain=Blockchain()))[0].status == doctor.OK


KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"  # of the address below (web3.js manual)
ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"


class Chain(BaseHTTPRequestHandler):
    """Answers like chain 143 with a block of now and one coin for everyone."""

    def do_POST(self) -> None:
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        result = {
            "eth_chainId": hex(143),
            "eth_getBlockByNumber": {"number": "0x1", "timestamp": hex(int(time.time()) + 3600)},
            "eth_getBalance": hex(10**18 if call["params"] and call["params"][0] == ADDRESS else 0),
        }[call["method"]]
        body = json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_a_chain_that_answers_is_compared_with_what_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERGPU_COORDINATOR_KEY", KEY)
    with ThreadingHTTPServer(("127.0.0.1", 0), Chain) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        settings = {"blockchain.kind": "rpc", "blockchain.rpc_url": url}
        found = doctor.check_chain(load(overrides=settings | {"blockchain.chain_id": 143}).config)
        other = doctor.check_chain(load(overrides=settings | {"blockchain.chain_id": 10143}).config)
        monkeypatch.delenv("HYPERGPU_COORDINATOR_KEY")
        keyless = doctor.check_chain(load(overrides=settings | {"blockchain.chain_id": 143}).config)
        server.shutdown()
    assert statuses(found) == {"chain 127.0.0.1": doctor.OK, "clock": doctor.NOTE, "coordinator": doctor.OK}
    assert found[-1].found == f"{ADDRESS}: 1.000000"
    assert [(f.status, f.found) for f in other] == [(doctor.MISSING, "is chain 143, not 10143")]
    assert statuses(keyless)["coordinator"] == doctor.NOTE


def test_the_clock_is_compared_with_a_time_server(monkeypatch: pytest.MonkeyPatch) -> None:
    offset_s = 100.0

    def serve(server: socket.socket) -> None:
        _, client = server.recvfrom(48)
        now_s = time.time() + offset_s + doctor._NTP_EPOCH_S
        stamp = struct.pack("!II", int(now_s), int(now_s % 1 * 2**32))
        server.sendto(bytes(32) + stamp + stamp, client)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr(doctor, "_NTP_PORT", server.getsockname()[1])
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        (found,) = doctor.check_clock("127.0.0.1")
        thread.join()
    assert found.status == doctor.NOTE
    assert abs(float(found.found.split()[0]) - offset_s) < 5


@pytest.mark.parametrize("answer", [b"", b"now", bytes(200)])
def test_an_answer_that_is_no_time_is_a_note(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr(doctor, "_NTP_PORT", server.getsockname()[1])
        thread = threading.Thread(target=lambda: server.sendto(answer, server.recvfrom(48)[1]))
        thread.start()
        (found,) = doctor.check_clock("127.0.0.1")
        thread.join()
    assert found.status == doctor.NOTE and "no time" in found.found
