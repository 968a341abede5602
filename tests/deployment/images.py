"""Images as their Dockerfiles make them, but for the packages, which are this machine's."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.deployment.stack import REPOSITORY

USER = 49999
DOCKER = REPOSITORY / "deploy" / "docker"
VENV = "/python/venv"  # where Flower's images have it
PATH = os.pathsep.join([f"{VENV}/bin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"])


@dataclass(frozen=True)
class Image:
    """What containers of an image start from."""

    entrypoint: tuple[str, ...]
    command: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: int = USER
    files: Mapping[str, Path] = field(default_factory=dict)  # path in the image -> what lies there
    folders: tuple[str, ...] = ()  # that belong to its user
    links: tuple[tuple[str, str, str], ...] = ()  # folder, link, where it points
    health: tuple[str, ...] = ()


# flwr/base of Flower 1.41, which its superlink, supernode and superexec images stand on (src/docker/base/ubuntu).
FLOWER = {"HOME": "/app", "PATH": PATH, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}


def programs(folder: Path) -> Path:
    """Copy of this environment's programs that start in ``VENV``."""
    folder.mkdir()
    for file in (Path(sys.prefix) / "bin").iterdir():
        if file.is_symlink():
            (folder / file.name).symlink_to(file.readlink())
        elif file.is_file():
            content = file.read_bytes()
            (folder / file.name).write_bytes(content.replace(f"#!{sys.prefix}/".encode(), f"#!{VENV}/".encode(), 1))
            (folder / file.name).chmod(0o755)
    return folder


def ours(role: str) -> Image:
    """The image that ``deploy/docker/ROLE.Dockerfile`` makes."""
    environ, files, folders = dict(FLOWER), {}, ["/app"]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    workdir, user = "/app", USER
    for word, rest in instructions(DOCKER / f"{role}.Dockerfile"):
        if word == "WORKDIR":
            workdir = rest
        elif word == "USER":
            user = int(rest.partition(":")[0])
        elif word == "ENV":
            environ |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "COPY":
            *sources, to = rest.split()
            for source in sources:
                there = f"{workdir}/{Path(source).name if to == './' else to}"
                files[there] = REPOSITORY / source
        elif word == "RUN":
            folders += re.findall(rf"chown {USER}:{USER} (\S+)", rest)
            if "pip install" in rest and rest.split("&&")[0].rstrip().endswith("-e ."):
                environ["PYTHONPATH"] = workdir  # what an editable install amounts to
        elif word == "ENTRYPOINT":
            entrypoint = tuple(json.loads(rest))
        elif word == "CMD":
            command = tuple(json.loads(rest))
        elif word == "HEALTHCHECK":
            health = tuple(json.loads(rest.partition("CMD ")[2]))
    return Image(entrypoint, command, environ, workdir, user, files, tuple(folders), health=health)


def instructions(file: Path) -> Iterator[tuple[str, str]]:
    """Words of a Dockerfile with what follows them."""
    text = re.sub(r"^#.*\n", "", file.read_text(encoding="utf-8"), flags=re.M)
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        if word:
            yield word, rest.strip()


def image_of(reference: str, *, nginx: Path | None, anvil: Path | None) -> Image:
    """Image by its reference; nginx and anvil are this machine's programs."""
    name = reference.rpartition(":")[0].rpartition("/")[2]
    if name.startswith("hypergpu-"):
        return ours(name.removeprefix("hypergpu-"))
    if name == "superlink":
        return Image(("flower-superlink",), (), FLOWER, "/app", folders=("/app",))
    if name == "nginx":
        assert nginx is not None
        # as in the official image, whose logs are links
        links = tuple(("/var/log/nginx", f"/var/log/nginx/{log}.log", "/dev/stderr") for log in ("error", "access"))
        return Image((str(nginx), "-g", "daemon off;"), (), {"PATH": PATH, "HOME": "/"}, "/", links=links)
    if name == "foundry":
        assert anvil is not None
        return Image(
            ("/bin/sh",), (), {"PATH": f"/opt/foundry:{PATH}", "HOME": "/"}, files={"/opt/foundry/anvil": anvil}
        )
    raise AssertionError(f"no image is known by {reference}")
