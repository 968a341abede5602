"""The files under deploy/: what they start exists, runs unprivileged and lets nobody near the Control API."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
FLOWER_USER = 49999
PROGRAMS = {
    "superlink": "flower-superlink",
    "superexec": "flower-superexec",
    "supernode": "flower-supernode",
    "node": "flower-supernode",
}


def documents() -> Iterator[dict[str, Any]]:
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    for name in kustomization["resources"]:
        if name.endswith(".yaml"):
            yield from yaml.safe_load_all((BASE / name).read_text())


def workloads() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in documents():
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def services() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in ("server.yaml", "node.yaml"):
        yield from yaml.safe_load((DEPLOY / "compose" / file).read_text())["services"].items()


@cache
def options_of(program: str) -> str:
    path = Path(sys.executable).with_name(program)
    return subprocess.run([path, "--help"], capture_output=True, text=True, check=True).stdout


def commands() -> Iterator[tuple[str, list[str]]]:
    for name, pod in workloads():
        yield name, pod["containers"][0].get("args", [])
    for name, service in services():
        yield name, service.get("command", [])


def test_every_option_that_is_passed_exists() -> None:
    seen = 0
    for name, words in commands():
        if program := PROGRAMS.get(name):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(words)):
                assert option in options_of(program), f"{program} has no {option}"
                seen += 1
    assert seen > 20


def test_kustomize_finds_every_file() -> None:
    for folder in (BASE, DEPLOY / "proxy", DEPLOY / "kubernetes" / "overlays" / "gpu"):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        names = kustomization.get("resources", [])
        names += [file for generator in kustomization.get("configMapGenerator", []) for file in generator["files"]]
        assert names and all((folder / name).exists() for name in names)


@pytest.mark.parametrize("overlay", ["base", "overlays/gpu"])
def test_kubectl_renders_it_where_there_is_one(overlay: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return  # the structure is checked above; rendering is one more opinion
    done = subprocess.run(
        [kubectl, "kustomize", str(DEPLOY / "kubernetes" / overlay)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {document["kind"] for document in yaml.safe_load_all(done.stdout)} >= {"StatefulSet", "NetworkPolicy"}


def test_no_container_runs_as_root_or_can_become_it() -> None:
    for name, pod in workloads():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == (101 if name == "proxy" else FLOWER_USER)
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for name, service in services():
        assert service["user"] == f"{FLOWER_USER}:{FLOWER_USER}" and service["cap_drop"] == ["ALL"]


def test_volumes_and_their_mounts_belong_together() -> None:
    claims = {d["metadata"]["name"]: d for d in documents() if d["kind"] == "StatefulSet"}
    for name, pod in workloads():
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        if name in claims:
            volumes |= {c["metadata"]["name"] for c in claims[name]["spec"].get("volumeClaimTemplates", [])}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_tls_and_node_keys_are_on_everywhere() -> None:
    for name, words in commands():
        line = " ".join(words)
        assert "--insecure" not in line
        if name == "superlink":
            assert "--enable-supernode-auth" in line and "--ssl-certfile" in line
        if name in ("supernode", "node"):
            assert "--auth-supernode-private-key" in line and "--root-certificates" in line


def test_the_superlinks_port_stays_on_its_host() -> None:
    compose = dict(services())
    assert compose["superlink"]["ports"] == ["127.0.0.1:8000:8000"]
    (policy,) = (d for d in documents() if d["kind"] == "NetworkPolicy")
    allowed = [peer["podSelector"]["matchLabels"]["app"] for rule in policy["spec"]["ingress"] for peer in rule["from"]]
    assert policy["spec"]["podSelector"] == {"matchLabels": {"app": "superlink"}}
    assert allowed == ["proxy", "superexec"]
    public = [
        d["metadata"]["name"] for d in documents() if d["kind"] == "Service" and d["spec"].get("type") == "LoadBalancer"
    ]
    assert public == ["proxy"]


def test_the_proxies_pass_the_fleet_api_and_health_alone() -> None:
    nginx = (DEPLOY / "proxy" / "nginx.conf").read_text()
    locations = re.findall(r"location\s+(.+?)\s*\{\s*(\w+)", nginx)
    assert locations == [("= /health", "proxy_pass"), ("^~ /v1/fleet/", "proxy_pass"), ("/", "return")]
    caddy = (DEPLOY / "proxy" / "Caddyfile").read_text()
    assert re.findall(r"@nodes \{\s*path (.+)", caddy) == ["/health /v1/fleet/*"]
    assert caddy.count("reverse_proxy") == 1 and "respond 404" in caddy


def test_images_are_flowers_ubuntu_ones_of_the_pinned_release() -> None:
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    release = re.search(r"flwr==([\d.]+)", (DEPLOY.parent / "constraints.txt").read_text())
    assert release
    assert f"FROM flwr/${{ROLE}}:{release[1]}-py3.12-ubuntu24.04" in dockerfile
    assert f"USER {FLOWER_USER}:{FLOWER_USER}" in dockerfile
