"""Services of unit files: command, environment, user, folders and credentials, as systemd.exec(5) has them."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.deployment.composing import env_file
from tests.deployment.containers import Container, Mount
from tests.deployment.images import Image, ours
from tests.deployment.stack import REPOSITORY

UNITS = REPOSITORY / "deploy" / "systemd"
USERS = {"hypergpu": 49999}  # as the README makes them
DYNAMIC = 61184  # the first of DynamicUser's range
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
SYSTEMD = Image((), (), {"PATH": PATH, "LANG": "C.UTF-8"})


@dataclass(frozen=True)
class Unit:
    """A unit file, with the specifiers of an instance filled in."""

    name: str
    settings: Mapping[str, list[str]]

    def one(self, key: str) -> str:
        """The value of a setting that stands once."""
        (value,) = self.settings[key]
        return value


def unit(file: str, instance: str = "") -> Unit:
    """Read a unit file; ``instance`` stands after the @."""
    name = file.replace("@", f"@{instance}")
    specifiers = {"i": instance, "S": "/var/lib", "d": f"/run/credentials/{name}", "%": "%"}
    settings: dict[str, list[str]] = {}
    for line in (UNITS / file).read_text(encoding="utf-8").splitlines():
        key, assigned, value = line.partition("=")
        if assigned and not line.startswith("#"):
            filled = re.sub(r"%(.)", lambda found: specifiers[found[1]], value)
            settings.setdefault(key, []).append(filled)
    return Unit(name, settings)


def host(programs: Path) -> tuple[Image, tuple[Mount, ...]]:
    """A host where the README's steps were done: the app in /opt/hypergpu, its environment in .venv."""
    made = ours("server")  # whose Dockerfile lays the same files there
    files = {place: source for place, source in made.files.items() if place.startswith("/opt/hypergpu/")}
    environ = SYSTEMD.environ | {"PYTHONPATH": made.environ["PYTHONPATH"]}  # what an editable install amounts to
    mounts = (Mount("/opt/hypergpu/.venv", Path(sys.prefix)), Mount("/opt/hypergpu/.venv/bin", programs), Mount("/tmp"))
    return replace(SYSTEMD, environ=environ, files=files), tuple(
        replace(one, read_only=bool(one.source)) for one in mounts
    )


def service(one: Unit, etc: Path, var: Path, programs: Path) -> Container:
    """What systemd starts of a unit on a host whose /etc/hypergpu is ``etc``; state and credentials lie in ``var``."""
    image, mounts = host(programs)
    dynamic = one.settings.get("DynamicUser") == ["yes"]
    user = DYNAMIC if dynamic else USERS[one.one("User")]
    environ = dict(image.environ)
    for line in one.settings["Environment"]:
        environ |= dict(pair.split("=", 1) for pair in shlex.split(line))
    for file in one.settings["EnvironmentFile"]:  # these win, and systemd reads them as root
        environ |= env_file(etc / Path(file).relative_to("/etc/hypergpu"))
    states = []
    for place in one.one("StateDirectory").split():
        states.append(_owned(var / place, user, int(one.one("StateDirectoryMode"), 8)))
    credentials = _owned(var / "credentials" / one.name, user, 0o500)
    for line in one.settings["LoadCredential"]:
        name, _, source = line.partition(":")
        (credentials / name).write_bytes((etc / Path(source).relative_to("/etc/hypergpu")).read_bytes())
        _owned(credentials / name, user, 0o400)
    assert one.one("ProtectSystem") == "strict" and one.one("PrivateTmp") == "yes"
    mounts += (
        Mount("/etc/hypergpu", etc, read_only=True),
        Mount(f"/run/credentials/{one.name}", credentials, read_only=True),
        Mount(f"/var/lib/{states[0].name}", states[0]),
    )
    environ["CREDENTIALS_DIRECTORY"] = f"/run/credentials/{one.name}"
    return Container(
        name=one.name.removesuffix(".service").replace("@", "-"),
        image=image,
        command=tuple(_words(one.one("ExecStart"), environ)),
        environ=environ,
        mounts=mounts,
        workdir=one.one("WorkingDirectory"),
        user=user,
        group=user,
        read_only=True,
        restarts=one.one("Restart") == "always",
        grace_s=float(one.one("TimeoutStopSec")),
    )


def _words(line: str, environ: Mapping[str, str]) -> list[str]:
    """Words of a command line; ${NAME} stands for a part of one."""
    return [re.sub(r"\$\{(\w+)\}", lambda found: environ[found[1]], word) for word in shlex.split(line)]


def _owned(path: Path, user: int, mode: int) -> Path:
    if not path.exists():
        path.mkdir(parents=True)
    os.chown(path, user, user)
    path.chmod(mode)
    return path
