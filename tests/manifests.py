"""Checks of Kubernetes manifests and compose files for what their schemas do not see; each fault is a line of text."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

USER = 49999
Document = dict[str, Any]
_PATH = re.compile(r"(?<![\w.:/])/(?:run|var|data|work|demo|etc)(?:/[\w.@$*{}-]+)*")
_HOST = re.compile(r"(?<![\w./-])([a-z][a-z0-9-]*):(\d{2,5})(?!\d)")
_SECRET_NAME = re.compile(r"PASSWORD|_KEY$|SECRET|TOKEN")
_SECRET_TEXT = re.compile(r"PRIVATE KEY|\b(0x)?[0-9a-f]{64}\b")
FLOWS = {
    ("proxy", "superlink", 8000),
    ("superexec", "superlink", 8000),
    ("submit", "superlink", 8000),
    ("register", "superlink", 8000),
    ("node", "proxy", 8443),
}


def kubernetes_faults(documents: list[Document], given: Mapping[str, Collection[str]]) -> list[str]:
    """Faults of a set of manifests; ``given`` holds the keys of Secrets and ConfigMaps that come from elsewhere."""
    names = [(one["kind"], one["metadata"]["name"]) for one in documents]
    found = [f"{kind} {name} is there twice" for kind, name in set(names) if names.count((kind, name)) > 1]
    maps = {one["metadata"]["name"]: set(one["data"]) for one in documents if one["kind"] == "ConfigMap"}
    held = {name: set(keys) for name, keys in given.items()} | maps
    for one in documents:
        name, spec = one["metadata"]["name"], one.get("spec", {})
        if pod := pod_of(one):
            found += [f"{name}: {fault}" for fault in _pod(one, pod, documents, held)]
            labels = spec["template"]["metadata"]["labels"]
            if "selector" in spec and not spec["selector"]["matchLabels"].items() <= labels.items():
                found.append(f"{name}: its selector is not its pods'")
        if one["kind"] == "Service":
            found += _service(one, documents)
        if one["kind"] == "Job":
            found += _job(one)
        if one["kind"] == "PodDisruptionBudget" and not _selected(spec["selector"]["matchLabels"], documents):
            found.append(f"PodDisruptionBudget {name} selects nothing")
        if _SECRET_TEXT.search(str(one)):
            found.append(f"{name} holds a literal secret")
    return [*found, *_shared_secrets(documents), *_network(documents)]


def pod_of(document: Document) -> Document | None:
    """Pod that a workload makes."""
    kinds = ("Deployment", "StatefulSet", "Job")
    pod: Document | None = document["spec"]["template"]["spec"] if document["kind"] in kinds else None
    return pod


def _selected(labels: Mapping[str, str], documents: list[Document]) -> list[Document]:
    return [
        pod
        for one in documents
        if (pod := pod_of(one)) and labels.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    ]


def _service(service: Document, documents: list[Document]) -> Iterator[str]:
    name = service["metadata"]["name"]
    pods = _selected(service["spec"]["selector"], documents)
    if not pods:
        yield f"Service {name} selects nothing"
    for port in service["spec"].get("ports", []):
        for pod in pods:
            if port["targetPort"] not in {p["name"] for c in pod["containers"] for p in c.get("ports", [])}:
                yield f"Service {name}: no port {port['targetPort']} in what it selects"


def _job(job: Document) -> Iterator[str]:
    """A Job does not start twice under one name: it bears its run's, or the number of the release."""
    name = job["metadata"]["name"]
    runs = [word[7:] for c in pod_of(job)["containers"] for word in c.get("args", []) if word.startswith("--name=")]
    mine = name.partition("-")[2]
    if not (mine.isdecimal() or mine in runs) or any(run != mine for run in runs):
        yield f"Job {name} would not start for another run"


def _pod(workload: Document, pod: Document, documents: list[Document], held: Mapping[str, set[str]]) -> Iterator[str]:
    security = pod.get("securityContext", {})
    if not security.get("runAsNonRoot") or {security.get(k) for k in ("runAsUser", "runAsGroup", "fsGroup")} != {USER}:
        yield f"does not run as {USER}"
    if security.get("seccompProfile") != {"type": "RuntimeDefault"} or pod.get("automountServiceAccountToken", True):
        yield "has no seccomp profile, or a token"
    claims = {one["metadata"]["name"] for one in documents if one["kind"] == "PersistentVolumeClaim"}
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    templates = {one["metadata"]["name"]: {} for one in workload["spec"].get("volumeClaimTemplates", [])}
    keys: dict[str, set[str] | None] = dict.fromkeys(templates)
    for name, volume in volumes.items():
        if (claim := volume.get("persistentVolumeClaim")) and claim["claimName"] not in claims:
            yield f"the claim {claim['claimName']} does not exist"
        sources = [volume, *volume.get("projected", {}).get("sources", [])]
        keys[name] = None
        for source in sources:
            for kind in ("secret", "configMap"):
                if kind in source:
                    of = source[kind].get("secretName") or source[kind]["name"]
                    if of not in held:
                        yield f"{kind} {of} does not exist"
                        continue
                    asked = {item["key"] for item in source[kind].get("items", [])} or held[of]
                    if missing := asked - held[of]:
                        yield f"{kind} {of} has no {min(missing)}"
                    keys[name] = (keys[name] or set()) | asked
        if "secret" in volume and volume["secret"].get("defaultMode") != 0o440:
            yield f"the secret {name} is not for its group alone"
    for container in pod["containers"]:
        yield from _container(container, keys, held, pod, documents)


def _container(
    container: Document,
    keys: Mapping[str, set[str] | None],
    held: Mapping[str, set[str]],
    pod: Document,
    documents: list[Document],
) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation", True) or security.get("capabilities") != {"drop": ["ALL"]}:
        yield "may gain privileges"
    if not security.get("readOnlyRootFilesystem"):
        yield "may write its root"
    tag = container["image"].rpartition(":")[2]
    if "/" in tag or tag in ("latest", container["image"]):
        yield f"the image {container['image']} has no fixed tag"
    limits = container.get("resources", {}).get("limits", {})
    if "memory" not in limits:
        yield "has no memory limit"
    if ("nvidia.com/gpu" in limits) != bool(pod.get("runtimeClassName") and pod.get("tolerations")):
        yield "a GPU goes with runtime class and toleration"
    mounts = container.get("volumeMounts", [])
    for mount in mounts:
        if mount["name"] not in keys:
            yield f"the volume {mount['name']} does not exist"
        elif (there := keys[mount["name"]]) is not None and "subPath" in mount and mount["subPath"] not in there:
            yield f"{mount['name']} has no {mount['subPath']}"
    paths = [mount["mountPath"] for mount in mounts]
    if len(set(paths)) < len(paths):
        yield "two volumes at one path"
    if unused := set(keys) - {mount["name"] for mount in mounts}:
        yield f"the volume {min(unused)} is mounted nowhere"
    env = container.get("env", [])
    words = [*container.get("command", []), *container.get("args", []), *(one.get("value", "") for one in env)]
    for path in {path for word in words for path in _PATH.findall(word)}:
        if not (mount := _below(path, mounts)):
            yield f"{path} lies on no volume"
        elif (there := keys.get(mount["name"])) and "*" not in path and "subPath" not in mount:
            inside = path[len(mount["mountPath"]) + 1 :]
            if inside and inside not in there:
                yield f"{path} is not in {mount['name']}"
    for one in env:
        if "value" in one and _SECRET_NAME.search(one["name"]):
            yield f"{one['name']} is a literal secret"
        reference = one.get("valueFrom", {}).get("secretKeyRef")
        if reference and not reference.get("optional") and reference["key"] not in held.get(reference["name"], ()):
            yield f"secret {reference['name']} has no {reference['key']}"
    ports = {port["containerPort"] for port in container.get("ports", [])}
    ports |= {port["name"] for port in container.get("ports", [])}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        for how in ("httpGet", "grpc", "tcpSocket"):
            if (probe := container.get(kind, {}).get(how)) and probe["port"] not in ports:
                yield f"{kind} asks a port that is none"
    yield from _hosts(words, documents)


def _hosts(words: list[str], documents: list[Document]) -> Iterator[str]:
    services = {one["metadata"]["name"]: one["spec"] for one in documents if one["kind"] == "Service"}
    for host, port in {found for word in words for found in _HOST.findall(word)}:
        if host not in services or int(port) not in {p["port"] for p in services[host].get("ports", [])}:
            yield f"no Service answers at {host}:{port}"


def _below(path: str, mounts: list[Document]) -> Document | None:
    over = [m for m in mounts if path == m["mountPath"] or path.startswith(m["mountPath"] + "/")]
    return max(over, key=lambda m: len(m["mountPath"]), default=None)


def _shared_secrets(documents: list[Document]) -> Iterator[str]:
    """A node's Secret is its own, and the coordinator's keystore is superexec's."""
    users: dict[str, set[str]] = {}
    for one in documents:
        for name in re.findall(r"'secretName': '([^']+)'|'secretKeyRef': \{[^}]*'name': '([^']+)'", str(pod_of(one))):
            users.setdefault(name[0] or name[1], set()).add(one["metadata"]["name"])
    for name, theirs in users.items():
        if name.startswith("node-") and len(theirs) > 1:
            yield f"Secret {name} is mounted by {', '.join(sorted(theirs))}"
        if name == "coordinator" and theirs != {"superexec"}:
            yield f"the coordinator's Secret is mounted by {', '.join(sorted(theirs))}"


def _network(documents: list[Document]) -> Iterator[str]:
    policies = [one["spec"] for one in documents if one["kind"] == "NetworkPolicy"]
    if {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} not in policies:
        yield "no policy denies by default"
    pods = {
        labels["app"]: labels
        for one in documents
        if pod_of(one)
        for labels in [one["spec"]["template"]["metadata"]["labels"]]
    }
    ports = {8000, 8081, 8443}
    for sender, sent in pods.items():
        for receiver, received in pods.items():
            for port in ports:
                open_ = _passes(policies, sent, received, port)
                if open_ != ((sender, receiver, port) in FLOWS):
                    yield f"{sender} {'reaches' if open_ else 'does not reach'} {receiver}:{port}"
    for url in chains(documents):
        if not reaches(documents, "superexec", port_of(url)):
            yield f"superexec does not reach the chain at {url}"
    if "proxy" in pods and not _allows(policies, pods["proxy"], None, 8443, "ingress"):
        yield "nobody outside reaches the proxy"
    if "superlink" in pods and _allows(policies, pods["superlink"], None, 8000, "ingress"):
        yield "everybody reaches the SuperLink"


def chains(documents: list[Document]) -> list[str]:
    """Where runs that are submitted look for their chain."""
    settings = [
        json.loads(one["data"]["run.json"])
        for one in documents
        if one["kind"] == "ConfigMap" and "run.json" in one["data"]
    ]
    return [url for one in settings if (url := one.get("blockchain", {}).get("rpc_url"))]


def port_of(url: str) -> int:
    """Port of a URL."""
    parts = urlsplit(url)
    return parts.port or {"http": 80, "ws": 80, "https": 443, "wss": 443}[parts.scheme]


def reaches(documents: list[Document], app: str, port: int) -> bool:
    """Whether the policies let a pod out to this port of any host."""
    policies = [one["spec"] for one in documents if one["kind"] == "NetworkPolicy"]
    return _allows(policies, {"app": app}, None, port, "egress")


def _passes(policies: list[Document], sent: Document, received: Document, port: int) -> bool:
    return _allows(policies, sent, received, port, "egress") and _allows(policies, received, sent, port, "ingress")


def _allows(policies: list[Document], pod: Document, peer: Document | None, port: int, way: str) -> bool:
    side = "to" if way == "egress" else "from"
    for policy in policies:
        if not _matches(policy["podSelector"], pod):
            continue
        for rule in policy.get(way, []):
            if "ports" in rule and port not in {one["port"] for one in rule["ports"]}:
                continue
            peers = rule.get(side)
            if peers is None or any(peer and "podSelector" in p and _matches(p["podSelector"], peer) for p in peers):
                return True
    return False


def _matches(selector: Document, labels: Document) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )


def compose_faults(file: Document, files: Collection[str], known: Collection[str] = ()) -> list[str]:
    """Faults of a compose file that lies beside ``files``; values of ``known`` are no secrets."""
    found, services = [], file["services"]
    for name, service in services.items():
        targets = [tmpfs.partition(":")[0] for tmpfs in service.get("tmpfs", [])]
        for volume in service.get("volumes", []):
            if isinstance(volume, str):
                source, target = volume.split(":")[:2]
                kind = "volume" if source in file.get("volumes", {}) else "text"
            else:
                kind, source, target = volume["type"], volume["source"], volume["target"]
            source = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", source)
            targets.append(target)
            if kind == "volume" and source not in file.get("volumes", {}):
                found.append(f"{name}: the volume {source} is not declared")
            if kind == "text":
                found.append(f"{name}: {source} would be a named volume")
            if kind == "bind" and source.removeprefix("./") not in files:
                found.append(f"{name}: there is no {source}")
            if kind == "bind" and known == () and volume.get("bind") != {"create_host_path": False}:
                found.append(f"{name}: a missing {source} would be made for root")
        if service.get("user") != f"{USER}:{USER}" or service.get("cap_drop") != ["ALL"]:
            found.append(f"{name}: does not run as {USER} without capabilities")
        if not service.get("read_only") or service.get("security_opt") != ["no-new-privileges:true"]:
            found.append(f"{name}: may write its root or gain privileges")
        tag = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", service["image"]).rpartition(":")
        if not tag[0] or "/" in tag[2] or tag[2] == "latest":
            found.append(f"{name}: its image has no fixed tag")
        for variable, value in service.get("environment", {}).items():
            if _SECRET_NAME.search(variable) and value not in known:
                found.append(f"{name}: {variable} is a literal secret")
        for secret in service.get("env_file", []):
            if secret not in files:
                found.append(f"{name}: there is no {secret}")
        words = [*service.get("entrypoint", []), *service.get("command", [])]
        words += [*service.get("environment", {}).values(), *service.get("healthcheck", {}).get("test", [])]
        for path in {path for word in words for path in _PATH.findall(str(word))}:
            if not any(path == target or path.startswith(f"{target}/") for target in targets):
                found.append(f"{name}: {path} lies on no volume")
        asked = service.get("healthcheck", {})
        served = any(str(word).startswith("--health-server-address=") for word in words)
        if "hypergpu-server" in service["image"] and not (served or asked.get("disable") or "test" in asked):
            found.append(f"{name}: its image's health check asks what it does not serve")
        for other, how in service.get("depends_on", {}).items():
            if other not in services:
                found.append(f"{name}: waits for {other}, which is not there")
            elif how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
                found.append(f"{name}: waits for the health of {other}, which tells none")
        for host, port in {host for word in words for host in _HOST.findall(str(word))}:
            if host not in (*services, "localhost") and port != "0":
                found.append(f"{name}: {host}:{port} is no service")
        for port in service.get("ports", []):
            if name != "proxy" and not port.startswith("127.0.0.1:"):
                found.append(f"{name}: {port} is open to the outside")
    return found
