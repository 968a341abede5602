"""``hypergpu doctor``: what this machine has and lacks. A check that fails becomes a row, never a traceback."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from hypergpu_fl.cli.options import ConfigFile, Overrides, Runs, overrides, root_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.config import Config, environment, load, read_secrets
from hypergpu_fl.errors import ChainError, HyperGPUError
from strategies.prose import amount

if TYPE_CHECKING:
    from hypergpu_fl.chain.http import HttpChain

app = typer.Typer(add_completion=False, help="Check this machine: Python, torch, GPU, SuperLink, chain, clock, disk.")

OK: Final = "ok"
NOTE: Final = "note"  # worth knowing; nothing fails for it
MISSING: Final = "missing"  # a run cannot work

_PACKAGES: Final = ("flwr", "ray", "torch", "torchvision", "web3", "coincurve", "numba", "safetensors")
_DISK_NEEDED_BYTES: Final = 2 * 10**9
_CLOCK_LIMIT_S: Final = 30.0  # a larger difference to a time server or a block means that a clock is wrong
_NTP_PORT: Final = 123
_NTP_EPOCH_S: Final = 2_208_988_800  # 1900 to 1970, RFC 5905


@dataclass(frozen=True, slots=True)
class Finding:
    """One row: the check, how it went, what was seen, and the next step if there is one."""

    check: str
    status: str
    found: str
    remedy: str = ""


@app.command()
def doctor(
    config: ConfigFile = None,
    settings: Overrides = None,
    superlink: Annotated[str, typer.Option(metavar="HOST:PORT", help="SuperLink to reach; default: none")] = "",
    ntp: Annotated[str, typer.Option(metavar="HOST", help="time server to compare the clock with")] = "",
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Check this machine; exit 1 if something is missing that a run needs.

    With --config or --set it also checks what that run needs: it reads the data, tries the task on one batch, and asks
    the chain.

    Example: hypergpu doctor --config my.toml --superlink link.example:8443
    """
    environ = environment(os.environ)
    read_secrets()
    effective = load(config, overrides(settings), environ).config
    root = root_of(runs, effective.system)
    findings = examine(effective, root, superlink=superlink, ntp=ntp, task=bool(config or settings))
    render([{"check": f.check, "status": f.status, "found": f.found, "remedy": f.remedy} for f in findings], format)
    if any(finding.status == MISSING for finding in findings):
        raise typer.Exit(1)


def examine(config: Config, root: Path, *, superlink: str = "", ntp: str = "", task: bool = False) -> list[Finding]:
    """Run every check that applies; ``task``: try the configuration's task as well."""
    checks: dict[str, Callable[[], list[Finding]]] = {
        "python": check_python,
        "packages": check_packages,
        "device": lambda: check_device(config.system.device),
        "disk": lambda: check_disk(root),
        "memory": check_memory,
    }
    if task:
        checks["task"] = lambda: check_data_and_task(config, root)
    if superlink:
        checks["superlink"] = lambda: check_superlink(superlink)
    if config.blockchain.enabled:
        checks["chain"] = lambda: check_chain(config)
    if ntp:
        checks["clock"] = lambda: check_clock(ntp)
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings += check()
        except HyperGPUError as error:
            findings.append(Finding(name, MISSING, error.cause, error.remedy))
        except Exception as error:  # the doctor reports what it meets, whatever that is
            findings.append(Finding(name, MISSING, f"{type(error).__name__}: {error}", "see `hypergpu doctor --debug`"))
    return findings


def check_python() -> list[Finding]:
    """Whether this Python version is supported."""
    found = f"{platform.python_version()} at {sys.executable}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return [Finding("python", MISSING, found, "use Python 3.11, 3.12 or 3.13")]
    return [Finding("python", OK, f"{found}, {os.cpu_count()} cores")]


def check_packages() -> list[Finding]:
    """Whether the packages that a run imports are installed."""
    findings = []
    for name in _PACKAGES:
        try:
            findings.append(Finding(name, OK, version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, MISSING, "not installed", "pip install -c constraints.txt -e ."))
    return findings


def check_device(wanted: str) -> list[Finding]:
    """What torch can train on, and whether that is what the configuration asks for."""
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        findings = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            findings.append(Finding(f"cuda:{index}", OK, f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"))
        return findings
    if torch.backends.mps.is_available():
        return [Finding("gpu", OK, "Apple MPS")]
    why = importlib.import_module("hypergpu_fl.task.device").unusable_gpu()
    found = f"none that torch can use: {why}" if why else "none"
    if wanted in ("cuda", "mps"):
        remedy = "install a driver for it, or set system.device to auto or cpu"
        return [Finding("gpu", MISSING, f"system.device is {wanted!r}, but torch finds {found}", remedy)]
    return [
        Finding("gpu", NOTE, f"{found}; training uses the CPU", "install a driver that torch can use" if why else "")
    ]


def check_disk(root: Path) -> list[Finding]:
    """Whether the runs folder can be written to and has room."""
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        return [Finding("disk", MISSING, f"{there} cannot be written to", "choose another folder with --runs")]
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:.1f} GB free for {root}"
    if free < _DISK_NEEDED_BYTES:
        return [Finding("disk", MISSING, found, f"free at least {_DISK_NEEDED_BYTES / 1e9:.0f} GB, or choose --runs")]
    return [Finding("disk", OK, found)]


def check_memory() -> list[Finding]:
    """Free memory; each node at work in a simulation takes about 0.6 GB."""
    import psutil

    free = psutil.virtual_memory().available
    status = OK if free > 2e9 else NOTE
    return [
        Finding("memory", status, f"{free / 1e9:.1f} GB available", "" if status == OK else "simulate on fewer cores")
    ]


def check_data_and_task(config: Config, root: Path) -> list[Finding]:
    """Whether the data can be read and the task does one step and one evaluation, as `hypergpu run` checks it."""
    from hypergpu_fl.cli.bundle import app_with_task
    from hypergpu_fl.cli.preflight import check_before_start
    from hypergpu_fl.cli.submission import app_folder

    with app_with_task(app_folder(), config.training) as app:
        found = check_before_start(config, root, app, deployed=False)
    size, notes = found.pop("examples"), found.pop("notes")
    figures = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
    return [
        Finding(
            "task",
            OK,
            f"{config.training.title}: one step on a share of {amount(size, 'example')}; untrained {figures}",
        ),
        *(Finding("data", NOTE, note) for note in notes),
    ]


def check_superlink(address: str) -> list[Finding]:
    """Round-trip time to a SuperLink: median of five TCP handshakes, each one round trip."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return [Finding("superlink", MISSING, f"{address!r} is not HOST:PORT", "write --superlink host:8000")]
    samples_s = []
    for _ in range(5):
        began_s = time.perf_counter()
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            remedy = "start it, open its port, or correct the address"
            return [Finding("superlink", MISSING, f"{address} does not answer: {error}", remedy)]
        samples_s.append(time.perf_counter() - began_s)
    rtt_ms, jitter_ms = statistics.median(samples_s) * 1e3, statistics.pstdev(samples_s) * 1e3
    return [Finding("superlink", OK, f"{address}: round trip {rtt_ms:.1f} ms, jitter {jitter_ms:.1f} ms")]


def check_chain(config: Config) -> list[Finding]:
    """Chain id and the age of the newest block of each RPC address, and the coordinator's balance if a key is known."""
    chain = config.blockchain
    if chain.kind == "embedded":
        return [Finding("chain", OK, "embedded EVM, nothing to reach")]
    from hypergpu_fl.chain.http import HttpChain
    from hypergpu_fl.settlement.opening import rpc_urls

    findings = []
    for url in rpc_urls(chain.rpc_url):
        name = f"chain {urlsplit(url).hostname}"
        client = HttpChain([url], timeout_s=10)
        began_s = time.perf_counter()
        try:
            found_id = client.chain_id()
            took_ms = (time.perf_counter() - began_s) * 1e3
            if found_id != chain.chain_id:
                findings.append(
                    Finding(name, MISSING, f"is chain {found_id}, not {chain.chain_id}", "correct chain_id or rpc_url")
                )
                continue
            age_s = time.time() - client.newest_block_s()
            balance = _balance(client)
        except ChainError as error:
            findings.append(Finding(name, MISSING, error.cause, error.remedy))
            continue
        findings.append(Finding(name, OK, f"chain {found_id}, {took_ms:.0f} ms, newest block {age_s:.0f} s old"))
        if age_s < -_CLOCK_LIMIT_S:
            findings.append(Finding("clock", NOTE, f"{-age_s:.0f} s behind the chain", "set this machine's clock"))
        findings += balance
    return findings


def _balance(client: HttpChain) -> list[Finding]:
    key = read_secrets().coordinator_key
    if key is None:
        return [Finding("coordinator", NOTE, "no key in the environment", "set HYPERGPU_COORDINATOR_KEY or a keystore")]
    from eth_account import Account

    address = Account.from_key(key.get_secret_value()).address
    balance = client.balance(address)
    status = OK if balance else MISSING
    return [
        Finding("coordinator", status, f"{address}: {balance / 10**18:.6f}", "" if balance else "fund this address")
    ]


def check_clock(host: str) -> list[Finding]:
    """Offset from a time server: ``((t1 - t0) + (t2 - t3)) / 2`` (SNTP, RFC 4330)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        sent_s = time.time()
        try:
            client.sendto(b"\x23" + 47 * b"\0", (host, _NTP_PORT))
            answer, _ = client.recvfrom(48)
        except OSError as error:
            return [
                Finding("clock", NOTE, f"{host} does not answer: {error}", "name a time server that can be reached")
            ]
        back_s = time.time()
    fields = struct.unpack("!12I", answer) if len(answer) == 48 else (0,) * 12
    if not fields[10]:  # a time server that knows no time says 0
        return [Finding("clock", NOTE, f"{host} answers, but tells no time", "name another time server")]
    received_s, answered_s = (fields[i] - _NTP_EPOCH_S + fields[i + 1] / 2**32 for i in (8, 10))
    offset_s = ((received_s - sent_s) + (answered_s - back_s)) / 2
    status = OK if abs(offset_s) < _CLOCK_LIMIT_S else NOTE
    return [
        Finding("clock", status, f"{offset_s:+.3f} s from {host}", "" if status == OK else "set this machine's clock")
    ]
