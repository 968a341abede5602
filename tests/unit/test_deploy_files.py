"""The files under deploy/: what they start exists, runs unprivileged and lets nobody near the Control API.

No container engine, cluster or Helm is needed. What Helm made of the chart is in the repository, and here it is
compared with its sources, checked for what schemas do not see
(`tests.manifests`), and rendered by kubectl where there is one.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from hypergpu_fl.cli import invoke
from tests.manifests import compose_faults, kubernetes_faults, pod_of

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CHART = DEPLOY / "helm" / "hypergpu"
FORMS = ["single-cluster", "gpu", "monad-testnet"]
FLOWER_USER = 49999
PROGRAMS = {
    "superlink": "flower-superlink",
    "superexec": "flower-superexec",
    "node": "flower-supernode",
}
ANVILS = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"  # first account, known to everyone
GIVEN = {
    "superlink-tls": ["server.pem", "server.key"],
    "superexec": ["secret"],
    "hypergpu-authority": ["ca.crt"],
    "coordinator": ["keystore.json", "password", "rpc-url"],
    "public-keys": ["node-0.pub"],
    **{f"node-node-{i}": ["node", "keystore.json", "password"] for i in range(3)},
}
Document = dict[str, Any]


def documents(form: str) -> list[Document]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / form / "hypergpu.yaml").read_text()))


def compose(name: str) -> Document:
    file: Document = yaml.safe_load((DEPLOY / "compose" / name).read_text())
    return file


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The server's archive and a node's folder, unpacked."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(DEPLOY / "compose" / "demo-project.toml", folder / "project.toml")
    assert invoke(["node", "provision", str(folder / "project.toml")]) == 0
    for file in (folder / "provisioned" / "archives").iterdir():
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter="data")
    return {"server.yaml": folder / "server", "node.yaml": folder / "first" / "node-0"}


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@cache
def options_of(program: str) -> str:
    path = Path(sys.executable).with_name(program)
    return subprocess.run([path, "--help"], capture_output=True, text=True, check=True).stdout


def commands() -> Iterator[tuple[str, list[str]]]:
    for form in FORMS:
        for one in documents(form):
            if pod := pod_of(one):
                yield pod["containers"][0]["name"], pod["containers"][0].get("args", [])
    for file in ("server.yaml", "node.yaml", "demo.yaml"):
        for name, service in compose(file)["services"].items():
            yield name.partition("-")[0], service.get("command", [])


def test_every_option_that_is_passed_exists() -> None:
    seen = 0
    for name, words in commands():
        if program := PROGRAMS.get(name):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(words)):
                assert option in options_of(program), f"{program} has no {option}"
                seen += 1
    assert seen > 60


def test_tls_and_node_keys_are_on_everywhere() -> None:
    for name, words in commands():
        line = " ".join(words)
        assert "--insecure" not in line
        if name == "superlink":
            assert "--enable-supernode-auth" in line and "--ssl-certfile" in line
        if name == "node":
            assert "--auth-supernode-private-key" in line and "--root-certificates" in line


@pytest.mark.parametrize("form", FORMS)
def test_the_manifests_have_no_fault_that_schemas_do_not_see(form: str) -> None:
    assert kubernetes_faults(documents(form), GIVEN) == []


def test_the_compose_files_have_no_fault_that_their_schema_does_not_see(archives: dict[str, Path]) -> None:
    for file, folder in archives.items():
        assert compose_faults(compose(file), below(folder)) == []
    demo = below(DEPLOY / "compose")
    assert compose_faults(compose("demo.yaml"), demo, known=[ANVILS]) == []


def workload(found: list[Document], name: str) -> Document:
    return next(one for one in found if pod_of(one) and one["metadata"]["name"] == name)


def pod(found: list[Document], name: str) -> Document:
    found_pod: Document = workload(found, name)["spec"]["template"]["spec"]
    return found_pod


def container(found: list[Document], name: str) -> Document:
    first: Document = pod(found, name)["containers"][0]
    return first


def named(found: list[Document], kind: str, name: str) -> Document:
    return next(one for one in found if (one["kind"], one["metadata"]["name"]) == (kind, name))


def rename(words: list[str], old: str, new: str) -> None:
    words[:] = [word.replace(old, new) for word in words]


SEEDED: dict[str, Callable[[list[Document]], object]] = {
    "its selector is not its pods'": lambda d: workload(d, "superexec")["spec"]["selector"].update(
        matchLabels={"app": "other"}
    ),
    "Service proxy selects nothing": lambda d: named(d, "Service", "proxy")["spec"].update(selector={"app": "prox"}),
    "no port web in what": lambda d: named(d, "Service", "superlink")["spec"]["ports"][0].update(targetPort="web"),
    "PodDisruptionBudget proxy selects": lambda d: named(d, "PodDisruptionBudget", "proxy")["spec"]["selector"].update(
        matchLabels={"app": "p"}
    ),
    "secret node-node-9 does not exist": lambda d: pod(d, "node-node-0")["volumes"][1]["secret"].update(
        secretName="node-node-9"
    ),
    "has no keystore": lambda d: pod(d, "node-node-0")["volumes"][1]["secret"]["items"][1].update(key="keystore"),
    "the claim runs does not exist": lambda d: named(d, "PersistentVolumeClaim", "runs")["metadata"].update(name="ran"),
    "the volume temp does not exist": lambda d: container(d, "superlink")["volumeMounts"][4].update(name="temp"),
    "two volumes at one path": lambda d: container(d, "proxy")["volumeMounts"][0].update(mountPath="/tmp"),
    "is mounted nowhere": lambda d: container(d, "superexec")["volumeMounts"].pop(),
    "/run/key/node lies on no volume": lambda d: rename(
        container(d, "node-node-1")["args"], "/run/keys/n", "/run/key/n"
    ),
    "/run/keys/nodes is not in keys": lambda d: rename(container(d, "node-node-1")["args"], "keys/node", "keys/nodes"),
    "HYPERGPU_KEYSTORE_PASSWORD is a literal": lambda d: container(d, "superexec")["env"].append(
        {"name": "HYPERGPU_KEYSTORE_PASSWORD", "value": "x"}
    ),
    "holds a literal secret": lambda d: container(d, "superexec")["args"].append(ANVILS),
    "has no passwort": lambda d: container(d, "node-node-2")["env"][1]["valueFrom"]["secretKeyRef"].update(
        key="passwort"
    ),
    "is mounted by node-node-0, node-node-1": lambda d: pod(d, "node-node-1")["volumes"][1]["secret"].update(
        secretName="node-node-0"
    ),
    "startupProbe asks a port": lambda d: container(d, "superexec")["startupProbe"]["grpc"].update(port=8082),
    "no Service answers at superlinks:8000": lambda d: rename(
        container(d, "superexec")["args"], "superlink:", "superlinks:"
    ),
    "no Service answers at proxy:8443": lambda d: rename(
        container(d, "node-node-0")["args"], "proxy:443", "proxy:8443"
    ),
    "does not run as": lambda d: pod(d, "proxy")["securityContext"].update(runAsUser=0),
    "has no seccomp profile": lambda d: pod(d, "register-1").pop("automountServiceAccountToken"),
    "may gain privileges": lambda d: container(d, "submit-first")["securityContext"].update(capabilities={}),
    "may write its root": lambda d: container(d, "superlink")["securityContext"].pop("readOnlyRootFilesystem"),
    "has no fixed tag": lambda d: container(d, "node-node-0").update(image="hypergpu-node:latest"),
    "has no memory limit": lambda d: container(d, "proxy")["resources"].pop("limits"),
    "no policy denies by default": lambda d: d.remove(named(d, "NetworkPolicy", "default-deny")),
    "node reaches superlink:8000": lambda d: (
        named(d, "NetworkPolicy", "superlink")["spec"]["ingress"][0].pop("from"),
        named(d, "NetworkPolicy", "node")["spec"].update(egress=[{}]),
    ),
    "proxy does not reach superlink": lambda d: named(d, "NetworkPolicy", "to-superlink")["spec"]["podSelector"][
        "matchExpressions"
    ][0]["values"].remove("proxy"),
    "everybody reaches the SuperLink": lambda d: named(d, "NetworkPolicy", "superlink")["spec"]["ingress"][0].pop(
        "from"
    ),
    "nobody outside reaches the proxy": lambda d: d.remove(named(d, "NetworkPolicy", "proxy")),
    "is there twice": lambda d: d.append(named(d, "Service", "superlink")),
    "is not for its group alone": lambda d: pod(d, "superlink")["volumes"][1]["secret"].update(defaultMode=0o444),
    "Job submit would not start for another run": lambda d: workload(d, "submit-first")["metadata"].update(
        name="submit"
    ),
    "Job submit-first would not start for another run": lambda d: rename(
        container(d, "submit-first")["args"], "--name=first", "--name=second"
    ),
    "superexec does not reach the chain at http://10.0.0.7:8545": lambda d: named(d, "ConfigMap", "submit-first")[
        "data"
    ].update({"run.json": '{"blockchain": {"rpc_url": "http://10.0.0.7:8545"}}'}),
    "a GPU goes with": lambda d: container(d, "node-node-0")["resources"]["limits"].update({"nvidia.com/gpu": 1}),
}


@pytest.mark.parametrize("fault", SEEDED)
def test_a_fault_that_is_put_into_the_manifests_is_found(fault: str) -> None:
    found = documents("single-cluster")
    SEEDED[fault](found)
    said = kubernetes_faults(found, GIVEN)
    assert any(fault in line for line in said), said


COMPOSE_SEEDED: dict[str, Callable[[Document], object]] = {
    "would be a named volume": lambda s: s["superexec"]["volumes"].append("keys/site-a:/run/site:ro"),
    "there is no ./key": lambda s: s["superlink"]["volumes"][0].update(source="./key"),
    "would be made for root": lambda s: s["proxy"]["volumes"][1].pop("bind"),
    "/run/keys/ca.crt lies on no volume": lambda s: s["superexec"]["volumes"].pop(0),
    "does not run as": lambda s: s["proxy"].pop("user"),
    "may write its root": lambda s: s["superexec"].update(read_only=False),
    "its image has no fixed tag": lambda s: s["proxy"].update(image="nginx"),
    "is a literal secret": lambda s: s["superexec"]["environment"].update(HYPERGPU_COORDINATOR_KEY=ANVILS),
    "there is no secrets.env": lambda s: s["superexec"].update(env_file=["secrets.env"]),
    "waits for superlinks": lambda s: s["proxy"].update(depends_on={"superlinks": {"condition": "service_started"}}),
    "waits for the health of superlink": lambda s: s["superlink"].pop("healthcheck"),
    "superexec: its image's health check asks what it does not serve": lambda s: s["superexec"]["command"].pop(3),
    "operator: its image's health check asks": lambda s: s["operator"].pop("healthcheck"),
    "superlnk:8000 is no service": lambda s: rename(s["superexec"]["command"], "superlink:", "superlnk:"),
    "is open to the outside": lambda s: s["superlink"].update(ports=["8000:8000"]),
}


@pytest.mark.parametrize("fault", COMPOSE_SEEDED)
def test_a_fault_that_is_put_into_the_servers_compose_file_is_found(fault: str, archives: dict[str, Path]) -> None:
    file = copy.deepcopy(compose("server.yaml"))
    COMPOSE_SEEDED[fault](file["services"])
    said = compose_faults(file, below(archives["server.yaml"]))
    assert any(fault in line for line in said), said


def renderer() -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location("render", DEPLOY / "render.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("form", FORMS)
def test_the_rendered_manifests_are_of_the_chart_as_it_is(form: str) -> None:
    first = (DEPLOY / "kubernetes" / form / "hypergpu.yaml").read_text().splitlines()[0]
    assert first.endswith(renderer().sources(form)), "run deploy/render.py where Helm is"


def test_what_was_rendered_is_what_the_values_say() -> None:
    found = documents("gpu")
    values = yaml.safe_load((DEPLOY / "helm" / "values" / "single-cluster.yaml").read_text())
    gpu = yaml.safe_load((CHART / "values.yaml").read_text())["gpu"]
    for node in values["nodes"]:
        words = container(found, f"node-{node['name']}")["args"]
        assert any(word.startswith(f"partition-id={node['partition']} ") for word in words)
        spec = pod(found, f"node-{node['name']}")
        assert (spec["runtimeClassName"], spec["nodeSelector"]) == (gpu["runtimeClassName"], gpu["nodeSelector"])
        assert spec["tolerations"] == gpu["tolerations"]
        assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == gpu["count"]
    assert json.loads(named(found, "ConfigMap", "submit-first")["data"]["run.json"]) == values["submit"]["config"]
    proxied = named(found, "ConfigMap", "proxy")["data"]["nginx.conf"]
    assert proxied.split() == (DEPLOY / "proxy" / "nginx.conf").read_text().split()
    assert (CHART / "files" / "nginx.conf").read_bytes() == (DEPLOY / "proxy" / "nginx.conf").read_bytes()


def test_the_values_of_the_archives_are_values_of_the_chart(archives: dict[str, Path]) -> None:
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"].keys() - {"global"} == known.keys()
    for folder in (archives["server.yaml"], archives["node.yaml"].parent):
        given = json.loads((folder / "values.json").read_text())
        for name, value in given.items():
            assert name in known
            if isinstance(value, dict):
                assert (
                    value.keys() <= known[name].keys()
                    and value.keys() <= schema["properties"][name]["properties"].keys()
                )
        for node in given["nodes"]:
            assert node.keys() <= schema["properties"]["nodes"]["items"]["properties"].keys()
        held = {item["metadata"]["name"] for item in json.loads((folder / "secrets.json").read_text())["items"]}
        assert {node["secretName"] for node in given["nodes"]} <= held and given["authorityConfigMap"] in held


@pytest.mark.parametrize("form", FORMS)
def test_what_a_kustomization_names_is_there(form: str) -> None:
    folder = DEPLOY / "kubernetes" / form
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert all((folder / name).exists() for name in kustomization["resources"])


@pytest.mark.parametrize("form", FORMS)
def test_kubectl_renders_it(form: str, kubectl: Path) -> None:
    folder = DEPLOY / "kubernetes" / form
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    assert len(made) == len(documents(form)) + 1
    (namespace,) = (one for one in made if one["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_proxies_pass_the_fleet_api_and_health_alone() -> None:
    nginx, contained = ((DEPLOY / place / "nginx.conf").read_text() for place in ("proxy", "compose"))
    for text in (nginx, contained):
        locations = re.findall(r"location\s+(.+?)\s*\{\s*(\w+)", text)
        assert locations == [("= /health", "proxy_pass"), ('~ "^/v1/fleet/[a-z-]+$"', "proxy_pass"), ("/", "return")]
    one = re.sub(r"  upstream superlink \{.*?\n  \}\n", "", nginx, flags=re.S)
    other = re.sub(r"  # In containers .*\n  resolver .*\n", "", contained).replace("superlink:8000$", "superlink$")
    assert one == other  # but for how the SuperLink is found
    caddy = (DEPLOY / "proxy" / "Caddyfile").read_text()
    assert re.findall(r"@nodes \{\s*path (.+)", caddy) == ["/health /v1/fleet/*"]
    assert caddy.count("reverse_proxy") == 1 and "respond 404" in caddy


def test_images_are_flowers_ubuntu_ones_of_the_pinned_release() -> None:
    release = re.search(r"flwr==([\d.]+)", (DEPLOY.parent / "constraints.txt").read_text())
    assert release
    for name, base in (("server", "superexec"), ("node", "supernode")):
        dockerfile = (DEPLOY / "docker" / f"{name}.Dockerfile").read_text()
        assert f"FROM flwr/{base}:{release[1]}-py3.12-ubuntu24.04" in dockerfile
        assert f"USER {FLOWER_USER}:{FLOWER_USER}" in dockerfile and "HEALTHCHECK" in dockerfile
        assert dockerfile.count("pip install") == dockerfile.count("-c constraints.txt") + 1  # our own, --no-deps
        copied = re.findall(r"^COPY (.*) \S+$", dockerfile, re.M)
        ignored = (DEPLOY / "docker" / f"{name}.Dockerfile.dockerignore").read_text().split()
        for path in " ".join(copied).split():
            assert (DEPLOY.parent / path).exists() and f"!{path.split('/')[0]}" in ignored
        assert (
            dockerfile.index("torch torchvision")
            < dockerfile.index("COPY pyproject.toml")
            < dockerfile.index("COPY hypergpu_fl")
        )
    images = {service["image"] for service in compose("server.yaml")["services"].values()}
    assert f"flwr/superlink:{release[1]}-py3.12-ubuntu24.04" in images


def test_an_images_dependencies_are_the_projects_without_ray() -> None:
    script = DEPLOY / "docker" / "requirements.py"
    printed = subprocess.run(
        [sys.executable, script, DEPLOY.parent / "pyproject.toml"], capture_output=True, text=True, check=True
    ).stdout.split("\n")[:-1]
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    assert len(printed) == len(project) - 2 and printed[0].startswith("flwr>=")


def test_systemds_units_start_what_exists() -> None:
    for name, command in (("hypergpu-node@", "node start"), ("hypergpu-server", "server start")):
        text = (DEPLOY / "systemd" / f"{name}.service").read_text()
        assert f"/hypergpu {command} " in text and "ca.key" not in text and "DATA_ROOT=" in text
        assert re.search(r"^(DynamicUser=yes|User=hypergpu)$", text, re.M)
        for credential in re.findall(r"%d/([\w.]+)", text):
            assert f"LoadCredential={credential}:" in text


def test_the_readme_puts_no_authoritys_key_where_a_proxy_reads() -> None:
    text = (DEPLOY / "README.md").read_text()
    commands = [
        line.partition(" #")[0] for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.split("\n")
    ]
    assert any("/run/keys" in line for line in commands)
    assert not [line for line in commands if "ln -s" in line or "ca.key" in line]


def test_the_workflow_publishes_what_the_forms_pull() -> None:
    workflow = yaml.safe_load((DEPLOY.parent / ".github" / "workflows" / "publish.yaml").read_text())
    job = workflow["jobs"]["image"]
    made = {one["name"] + one["suffix"] for one in job["strategy"]["matrix"]["include"]}
    assert made == {"server", "node", "node-cpu"}
    for name in ("server", "node"):
        assert (DEPLOY / "docker" / f"{name}.Dockerfile").exists()
    naming, build = job["steps"][2]["run"], job["steps"][-1]["with"]["file"]
    assert "hypergpu-${{ matrix.name }}:" in naming and build == "deploy/docker/${{ matrix.name }}.Dockerfile"
    pulled = {
        service["image"] for name in ("server.yaml", "node.yaml") for service in compose(name)["services"].values()
    }
    assert {re.sub(r".*:-|:[^:]*\}$", "", image) for image in pulled if "hypergpu" in image} == {
        "hypergpu-server",
        "hypergpu-node",
    }
