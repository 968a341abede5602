"""The machine's variables: one rule for what leaves it, and no part in what stays on its loopback interface."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rpc import ScriptedNode, scripted

from hypergpu_fl.chain.errors import Misconfigured
from hypergpu_fl.chain.http import HttpChain
from hypergpu_fl.children import free_port
from hypergpu_fl.cli.submission import visible_gpus
from hypergpu_fl.cli.superlink import LocalSuperLink, flower_environment
from hypergpu_fl.proxies import LOOPBACK, beside_loopback, proxy_of

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "no_grpc_proxy")


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedNode]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with scripted() as node:
        node.answers["eth_chainId"] = {"result": "0x7"}
        yield node


def test_an_endpoint_elsewhere_is_asked_through_the_proxy(node: ScriptedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://al%69ce:p%40ss@127.0.0.1:{node.port}")
    assert HttpChain(["http://chain.example/v1"]).chain_id() == 7
    ((asked, authorization),) = node.asked
    assert asked == "http://chain.example/v1"
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"alice:p@ss"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9"])
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_loopback_knows_no_proxy(host: str, variable: str, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    if host == "127.9.9.9" and sys.platform != "linux":
        host = "127.0.0.1"
    url = f"http://{host}:{node.port}/"
    assert proxy_of(url) is None
    if host != "127.9.9.9":  # the server listens on one address
        assert HttpChain([url]).chain_id() == 7


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("http://chain.example/", {"http_proxy": "proxy:3128"}, "http://proxy:3128"),
        ("https://chain.example/", {"http_proxy": "http://proxy:3128"}, None),
        ("https://chain.example/", {"all_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ("https://chain.example/", {"https_proxy": "http://proxy:3128", "no_proxy": ".example"}, None),
        ("https://chain.example:8443/", {"https_proxy": "http://proxy:3128", "no_proxy": "chain.example:8443"}, None),
        ("https://chain.example/", {"https_proxy": "http://proxy:3128", "no_proxy": "*"}, None),
        ("http://[::1]:8545/", {"http_proxy": "http://proxy:3128"}, None),
        ("http://anvil.localhost./", {"http_proxy": "http://proxy:3128"}, None),
        *(
            (f"http://{host}:8545/", {"all_proxy": "http://proxy:3128"}, None)
            for host in ("0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "127.1", "2130706433", "0x7f.1")
        ),
        ("http://[::ffff:10.0.0.1]/", {"http_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ("http://10.0.0.1/", {"http_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ("http://notlocalhost/", {"http_proxy": "http://proxy:3128"}, "http://proxy:3128"),
    ],
)
@pytest.mark.usefixtures("node")
def test_the_proxy_is_the_one_that_the_variables_name(
    url: str, environ: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(url) == proxy


@pytest.mark.usefixtures("node")
def test_a_proxy_that_is_not_spoken_to_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://user:hunter22@proxy:1080")
    with pytest.raises(Misconfigured, match=r"through socks5://[*]{3}@proxy:1080") as caught:
        HttpChain(["https://chain.example/"]).chain_id()
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, ",".join(LOOPBACK)),
        ({"NO_PROXY": "a.example, localhost"}, "a.example,localhost,127.0.0.1,::1"),
        ({"no_proxy": "a.example", "NO_PROXY": "b.example"}, "a.example,localhost,127.0.0.1,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_children_are_told_that_loopback_knows_no_proxy(environ: dict[str, str], names: str) -> None:
    assert beside_loopback(environ) == {"no_proxy": names, "NO_PROXY": names}
    assert beside_loopback(environ | {"no_grpc_proxy": "x"})["no_grpc_proxy"] == names


def test_a_foreign_ray_cluster_is_not_joined_and_other_variables_stay() -> None:
    environ = {"RAY_ADDRESS": "ray://10.0.0.1:10001", "RAY_NAMESPACE": "x", "https_proxy": "http://p:1", "LANG": "C"}
    kept = flower_environment(environ)
    assert not any(name.startswith("RAY_") for name in kept)
    assert (kept["https_proxy"], kept["LANG"]) == ("http://p:1", "C")


def test_a_local_superlink_starts_behind_proxies_that_do_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    port = free_port()
    with LocalSuperLink(tmp_path / "scratch", tmp_path, tmp_path / "superlink.log", port, dict(os.environ)) as link:
        assert link.is_alive()
        listed = subprocess.run(
            ["flwr", "ls", "local", "--format", "json"], env=link.environ, capture_output=True, text=True, timeout=60
        )
    assert json.loads(listed.stdout)["success"], listed.stdout + listed.stderr


@pytest.mark.parametrize(
    ("visible", "found", "left"),
    [
        (None, 4, 4),
        ("1", 4, 1),
        ("1,-1,2", 4, 1),
        ("", 4, 0),
        ("-1", 4, 0),
        ("NoDevFiles", 4, 0),
        ("3,4,0", 4, 1),
        ("0, 2", 4, 2),
        ("0,0", 4, 0),
        ("GPU-8932f937,MIG-3", 4, 2),
        ("11", 12, 1),
    ],
)
def test_visible_gpus_are_counted_as_cuda_counts_them(visible: str | None, found: int, left: int) -> None:
    assert visible_gpus(visible, found) == left
