"""Containers of compose files: variables, env files, volumes and conditions as the compose specification has them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.deployment.containers import Container, Mount
from tests.deployment.images import USER, Image

Document = dict[str, Any]


def read(file: Path, variables: Mapping[str, str]) -> Document:
    """A compose file with its variables filled in."""
    found: Document = _filled(yaml.safe_load(file.read_text(encoding="utf-8")), variables)
    return found


def env_file(file: Path) -> dict[str, str]:
    """Variables of an env file."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: value for name, value in pairs}


def containers(
    file: Document,
    folder: Path,
    images: Callable[[str], Image],
    volumes: Path,
    prefix: str = "",
) -> dict[str, Container]:
    """Every service's container; the file lies in ``folder``, and named volumes in ``volumes``."""
    return {
        name: _container(prefix + name, service, folder, images(service["image"]), volumes)
        for name, service in file["services"].items()
    }


def published(file: Document) -> list[tuple[str, int, int]]:
    """Service, port of the host and port of the container that everybody reaches; loopback's are left out."""
    found = []
    for name, service in file["services"].items():
        for port in service.get("ports", []):
            *host, ours, theirs = port.split(":")
            if not host:
                found.append((name, int(ours), int(theirs)))
    return found


def _container(name: str, service: Document, folder: Path, image: Image, volumes: Path) -> Container:
    environ = dict(image.environ)
    for file in service.get("env_file", []):
        environ |= env_file(folder / file)
    environ |= {key: str(value) for key, value in service.get("environment", {}).items()}
    mounts = [_mount(volume, folder, volumes) for volume in service.get("volumes", [])]
    for entry in service.get("tmpfs", []):
        target, _, options = entry.partition(":")
        mounts.append(Mount(target, None, options=f"noexec,nosuid,nodev,mode=1777{',' + options if options else ''}"))
    entrypoint = tuple(service.get("entrypoint", image.entrypoint))
    command = service.get("command", () if "entrypoint" in service else image.command)
    user, _, group = service["user"].partition(":")
    asked = service.get("healthcheck", {})
    test = ["NONE"] if asked.get("disable") else asked.get("test", ["CMD", *image.health])
    return Container(
        name=name,
        image=image,
        command=(*entrypoint, *command),
        environ=environ,
        mounts=tuple(mounts),
        workdir=service.get("working_dir", image.workdir),
        user=int(user),
        group=int(group),
        read_only=service["read_only"],
        shm=f"size={service['shm_size'].rstrip('b')}" if "shm_size" in service else "size=64m",
        restarts=service.get("restart", "no") != "no",
        health=tuple(test[1:]),
        needs={other: how["condition"] for other, how in service.get("depends_on", {}).items()},
        grace_s=float(service.get("stop_grace_period", "10s").removesuffix("s")),
    )


def _mount(volume: str | Document, folder: Path, volumes: Path) -> Mount:
    if isinstance(volume, str):
        source, target, *mode = volume.split(":")
        assert "/" not in source  # a named one
        return Mount(target, _named(volumes / source), mode == ["ro"])
    if volume["type"] == "volume":
        below = volume.get("volume", {}).get("subpath", "")
        return Mount(volume["target"], _named(volumes / volume["source"]) / below, volume.get("read_only", False))
    source = folder / volume["source"]
    assert source.exists(), f"there is no {source}, and an engine would not make it"
    return Mount(volume["target"], source.resolve(), volume.get("read_only", False))


def _named(folder: Path) -> Path:
    """A named volume, which takes its owner from the image's folder that it is first mounted at."""
    if not folder.exists():
        folder.mkdir(parents=True)
        os.chown(folder, USER, USER)
    return folder


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, variables) for inner in value]
    return (
        re.sub(r"\$(?:\$|\{(\w+)(?:(:-|:\?)([^}]*))?\})", lambda m: _one(m, variables), value)
        if isinstance(value, str)
        else value
    )


def _one(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name, how, words = match.groups()
    if name is None:
        return "$"
    found = variables.get(name, "")
    assert found or how != ":?", f"{name} is not set: {words}"
    return found or (words if how == ":-" else "")


def in_order(wanted: Iterable[str], all_: Mapping[str, Container]) -> list[str]:
    """Names with what they need before them."""
    found: list[str] = []
    for name in wanted:
        found += [one for one in in_order(all_[name].needs, all_) if one not in found]
        if name not in found:
            found.append(name)
    return found
