"""What is handed to Flower, and what is read out of its log."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.children import free_port
from hypergpu_fl.cli import submission
from hypergpu_fl.cli.submission import Submission, app_folder, as_toml, simulation_resources
from hypergpu_fl.cli.superlink import _RAY_PREFIX_LIMIT, _short_path, flower_environment, require_free
from hypergpu_fl.config import Config, flatten, to_run_config
from hypergpu_fl.errors import RunFailed, UsageError

NAMES = st.from_regex(r"[a-z_]{1,5}\.[a-z_]{1,5}", fullmatch=True)
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(NAMES, SCALARS | TEXT))
def test_run_config_as_toml_reads_back_equal(table: dict[str, object]) -> None:
    assert flatten(tomllib.loads(as_toml(table))) == table


def test_the_defaults_as_toml_are_the_defaults() -> None:
    assert flatten(tomllib.loads(as_toml(to_run_config(Config())))) == to_run_config(Config())


@pytest.mark.parametrize(
    ("gpus", "nodes", "device", "resources"),
    [
        (0, 10, "auto", "num-supernodes=10 client-resources-num-cpus=1"),
        (1, 10, "cpu", "num-supernodes=10 client-resources-num-cpus=1"),
        (1, 1, "cuda", "num-supernodes=1 client-resources-num-cpus=1 client-resources-num-gpus=1.0000"),
        (2, 100, "auto", "num-supernodes=100 client-resources-num-cpus=1 client-resources-num-gpus=0.1250"),
    ],
)
def test_gpus_are_shared_by_the_nodes_at_work_and_claimed_only_where_there_are_any(
    gpus: int, nodes: int, device: str, resources: str
) -> None:
    assert simulation_resources(nodes, device, gpus=gpus, cores=64) == resources


def test_hidden_gpus_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert submission.gpu_count() == 0


def test_the_app_is_found_beside_the_package_or_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = app_folder()
    assert (root / "hypergpu_fl" / "server" / "server_app.py").is_file()
    monkeypatch.setattr("hypergpu_fl.__file__", str(tmp_path / "site-packages" / "hypergpu_fl" / "__init__.py"))
    monkeypatch.chdir(root / "hypergpu_fl" / "cli")
    assert app_folder() == root
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no pyproject.toml of the Flower app"):
        app_folder()


def test_flower_refusals_are_told_in_its_words(tmp_path: Path) -> None:
    environ = flower_environment(dict(os.environ) | {"FLWR_HOME": str(tmp_path)})
    with pytest.raises(RunFailed, match=r"`flwr ls` failed: .*'nowhere' not found"):
        submission.Submission("1", "nowhere", environ).status()


def test_ctrl_c_while_flower_answers_leaves_no_child_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, pid = tmp_path / "flwr", tmp_path / "pid"
    slow.write_text(f"#!/bin/sh\necho $$ > {pid}\nsleep 1\nkill -INT $PPID\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # flwr lies beside it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            Submission("1", "local", os.environ).log()
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_free_port_is_free_and_a_taken_one_is_refused() -> None:
    port = free_port()
    assert require_free(port) == port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(UsageError, match=f"port {port}"):
            require_free(port)


def test_ray_gets_a_path_short_enough_for_its_sockets_and_leaves_nothing_behind(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with _short_path(deep) as short:
        (Path(short) / "file").write_text("text")
        assert len(short) <= _RAY_PREFIX_LIMIT
    with _short_path(Path("/tmp")) as short:
        assert short == "/tmp"
    assert not Path(short, "file").exists()
