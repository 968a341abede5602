"""Containers of Kubernetes manifests, with volumes owned and moded as a kubelet makes them for these pods."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deployment.containers import Container, Mount
from tests.deployment.images import Image
from tests.manifests import pod_of

Document = dict[str, Any]
Held = dict[str, dict[str, bytes]]  # Secrets and ConfigMaps: name -> key -> content


@dataclass(frozen=True)
class Workload:
    """What keeps some equal containers running, or one running to its end."""

    kind: str
    name: str
    labels: Mapping[str, str]
    containers: tuple[Container, ...]
    ports: Mapping[str, int]


def held(documents: list[Document]) -> Held:
    """Contents of Secrets and ConfigMaps."""
    found: Held = {}
    for one in documents:
        if one["kind"] in ("Secret", "ConfigMap"):
            content = {key: value.encode() for key, value in (one.get("stringData") or {}).items()}
            if one["kind"] == "Secret":
                content |= {key: base64.b64decode(value) for key, value in (one.get("data") or {}).items()}
            else:
                content |= {key: value.encode() for key, value in (one.get("data") or {}).items()}
            found[one["metadata"]["name"]] = content
    return found


def workloads(documents: list[Document], there: Held, images: Any, folder: Path) -> list[Workload]:
    """Every workload's containers; volumes lie below ``folder``; ``images`` maps a reference to an `Image`."""
    found = []
    for one in documents:
        if (pod := pod_of(one)) is None:
            continue
        name, replicas = one["metadata"]["name"], one["spec"].get("replicas", 1)
        (spec,) = pod["containers"]
        ports = {port["name"]: port["containerPort"] for port in spec.get("ports", [])}
        made = []
        for i in range(replicas):
            mine = f"{name}-{i}" if replicas > 1 or one["kind"] == "StatefulSet" else name
            volumes = _volumes(one, pod, mine, there, folder)
            made.append(
                _container(
                    mine,
                    one["kind"],
                    1 + one["spec"].get("backoffLimit", 6),
                    pod,
                    spec,
                    volumes,
                    there,
                    images(spec["image"]),
                    ports,
                )
            )
        found.append(Workload(one["kind"], name, one["spec"]["template"]["metadata"]["labels"], tuple(made), ports))
    return found


def _container(
    name: str,
    kind: str,
    tries: int,
    pod: Document,
    spec: Document,
    volumes: Mapping[str, Mount],
    there: Held,
    image: Image,
    ports: Mapping[str, int],
) -> Container:
    security = pod["securityContext"]
    environ = dict(image.environ)
    for one in spec.get("env", []):
        if "value" in one:
            environ[one["name"]] = one["value"]
        else:
            wanted = one["valueFrom"]["secretKeyRef"]
            value = there.get(wanted["name"], {}).get(wanted["key"])
            assert value is not None or wanted.get("optional"), f"{name}: no {wanted['key']} in {wanted['name']}"
            if value is not None:
                environ[one["name"]] = value.decode()
    mounts, shm = [], "size=64m"
    for mount in spec.get("volumeMounts", []):
        volume, target, only_read = volumes[mount["name"]], mount["mountPath"], mount.get("readOnly", False)
        if target == "/dev/shm":
            shm = volume.options
        elif volume.source is None:
            mounts.append(Mount(target, None, only_read, volume.options))
        else:
            source = volume.source / mount["subPath"] if "subPath" in mount else volume.source
            mounts.append(Mount(target, source.resolve(), only_read or volume.read_only))
    probes = []
    for probe in ("startupProbe", "readinessProbe"):
        for how, asked in spec.get(probe, {}).items():
            if how in ("httpGet", "grpc", "tcpSocket"):
                probes.append((how, ports.get(asked["port"], asked["port"])))
    command = (*spec["command"], *spec.get("args", ())) if "command" in spec else None
    return Container(
        name=name,
        image=image,
        command=command or (*image.entrypoint, *(spec.get("args") or image.command)),
        environ=environ,
        mounts=tuple(mounts),
        workdir=image.workdir,
        user=security["runAsUser"],
        group=security["runAsGroup"],
        read_only=spec["securityContext"]["readOnlyRootFilesystem"],
        shm=shm,
        restarts=kind != "Job",
        tries=tries,
        probes=tuple(probes),
        grace_s=pod.get("terminationGracePeriodSeconds", 30),
    )


def _volumes(workload: Document, pod: Document, name: str, there: Held, folder: Path) -> dict[str, Mount]:
    group, made = pod["securityContext"]["fsGroup"], {}
    for claim in workload["spec"].get("volumeClaimTemplates", []):
        made[claim["metadata"]["name"]] = Mount("", _writable(folder / f"{claim['metadata']['name']}-{name}", group))
    for volume in pod.get("volumes", []):
        at = folder / name / volume["name"]
        if "persistentVolumeClaim" in volume:
            made[volume["name"]] = Mount("", _writable(folder / volume["persistentVolumeClaim"]["claimName"], group))
        elif "emptyDir" in volume and (memory := volume["emptyDir"] or {}).get("medium") == "Memory":
            made[volume["name"]] = Mount("", None, options=f"mode=1777,size={memory['sizeLimit'].lower().rstrip('i')}")
        elif "emptyDir" in volume:
            made[volume["name"]] = Mount("", _writable(at, group))
        else:
            sources = volume.get("projected", {}).get("sources", [volume])
            mode = next(
                (s["defaultMode"] for s in (volume.get("projected", {}), *_kinds(volume)) if "defaultMode" in s), 0o644
            )
            files: dict[str, bytes] = {}
            for source in (kind for one in sources for kind in _kinds(one)):
                content = there[source.get("secretName") or source["name"]]
                wanted = source.get("items") or [{"key": key, "path": key} for key in content]
                files |= {item["path"]: content[item["key"]] for item in wanted}
            made[volume["name"]] = Mount("", _projected(at, files, mode, group), read_only=True)
    return made


def _kinds(source: Document) -> list[Document]:
    return [source[kind] for kind in ("secret", "configMap") if kind in source]


def _writable(folder: Path, group: int) -> Path:
    """A volume after the kubelet has given it to the pod's group."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, 0, group)
    folder.chmod(0o2775)
    return folder


def _projected(folder: Path, files: Mapping[str, bytes], mode: int, group: int) -> Path:
    """Files behind links, as the kubelet lays them so that all change at once."""
    (folder / "..1").mkdir(parents=True, exist_ok=True)
    if not (folder / "..data").is_symlink():
        (folder / "..data").symlink_to("..1")
    for name, content in files.items():
        file = folder / "..1" / name
        if not file.exists():
            file.write_bytes(content)
            os.chown(file, 0, group)
            file.chmod(mode | 0o440)  # whatever the mode, the group of the pod may read
            (folder / name).symlink_to(f"..data/{name}")
    return folder
