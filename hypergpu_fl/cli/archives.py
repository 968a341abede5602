"""Archives for a site and for the server, with owners and modes that fit the containers' user.

Flower's images run as user 49999, so every file belongs to that user: after ``sudo tar -xzf`` only the container and
root can read the secrets. A site's archive is made only from the folders of its own nodes.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hypergpu_fl.files import write_whole

if TYPE_CHECKING:
    from hypergpu_fl.cli.project import Project

USER: Final = 49999
SECRET, PUBLIC, FOLDER = 0o400, 0o444, 0o750
FIRST_PORT: Final = 9094

Files = dict[str, tuple[bytes, int]]  # path in the archive -> content, mode


def site_archive(
    archives: Path, deploy: Path, folder: Path, project: Project, site: str, partitions: Mapping[str, int]
) -> Path:
    """Write the archive of one site; returns its path."""
    authority, gpu = (folder / "authority" / "ca.crt").read_bytes(), project.sites[site].gpu
    files: Files = {"hypergpu-node@.service": _copy(deploy / "systemd" / "hypergpu-node@.service")}
    listed, kept = [], []
    for i, node in enumerate(project.sites[site].nodes):
        place = folder / "nodes" / node
        mine = {name: (place / name).read_bytes() for name in ("keystore.json", "password")}
        mine["node"] = (place / node).read_bytes()
        settings = {
            "COMPOSE_PROJECT_NAME": node,
            "COMPOSE_FILE": "compose.yaml:gpu.yaml" if gpu else "compose.yaml",
            "NODE_IMAGE": project.server.image("node"),
            "SUPERLINK": project.server.address,
            "PARTITION": str(partitions[node]),
            "PORT": str(FIRST_PORT + i),
        }
        files |= {
            f"{node}/compose.yaml": _copy(deploy / "compose" / "node.yaml"),
            f"{node}/gpu.yaml": _copy(deploy / "compose" / "gpu.yaml"),
            f"{node}/.env": (_lines(settings), PUBLIC),
            f"{node}/secret.env": (b"HYPERGPU_KEYSTORE_PASSWORD=" + mine["password"] + b"\n", SECRET),
            **{f"{node}/{place}/.keep": (b"", PUBLIC) for place in ("data", "state")},
            f"{node}/keys/ca.crt": (authority, PUBLIC),
            f"{node}/keys/node": (mine["node"], SECRET),
            f"{node}/keys/keystore.json": (mine["keystore.json"], SECRET),
        }
        listed.append({"name": node, "partition": partitions[node], "secretName": f"node-{node}"})
        kept.append(secret(f"node-{node}", mine))
    values = {
        "image": _image(project, "node"),
        "server": {"enabled": False},
        "superlink": project.server.address,
        "authorityConfigMap": "hypergpu-authority",
        "gpu": {"enabled": gpu},
        "nodes": listed,
    }
    kept.append(config_map("hypergpu-authority", {"ca.crt": authority}))
    files |= {"values.json": (_json(values), PUBLIC), "secrets.json": (_list(kept), SECRET)}
    return _write(archives / f"{site}.tar.gz", site, files)


def server_archive(archives: Path, deploy: Path, folder: Path, project: Project, partitions: Mapping[str, int]) -> Path:
    """Write the server's archive, without the private keys of the authority and the nodes; returns its path."""
    own = {
        name: (folder / "authority" / name).read_bytes()
        for name in ("ca.crt", "server.pem", "server.key", "superexec.secret")
    }
    files: Files = {f"keys/{name}": (own[name], SECRET if name.endswith(("key", "secret")) else PUBLIC) for name in own}
    for node in partitions:
        files[f"nodes/{node}.pub"] = ((folder / "nodes" / node / f"{node}.pub").read_bytes(), PUBLIC)
    files |= {
        "compose.yaml": _copy(deploy / "compose" / "server.yaml"),
        "nginx.conf": _copy(deploy / "compose" / "nginx.conf"),
        "flower.toml": _copy(deploy / "compose" / "flower.toml"),
        "hypergpu-server.service": _copy(deploy / "systemd" / "hypergpu-server.service"),
        ".env": (_lines({"SERVER_IMAGE": project.server.image("server")}), PUBLIC),
        "secret.env": (_copy(deploy / "compose" / "secret.env")[0], SECRET),
        **{f"{place}/.keep": (b"", PUBLIC) for place in ("coordinator", "data", "state", "superlink", "work")},
    }
    values = {
        "image": _image(project, "server"),
        "server": {"enabled": True},
        "authorityConfigMap": "hypergpu-authority",
        "publicKeysConfigMap": "public-keys",
        "nodes": [],
    }
    kept = [
        secret("superlink-tls", {"server.pem": own["server.pem"], "server.key": own["server.key"]}),
        secret("superexec", {"secret": own["superexec.secret"]}),
        config_map("hypergpu-authority", {"ca.crt": own["ca.crt"]}),
        config_map("public-keys", {f"{node}.pub": files[f"nodes/{node}.pub"][0] for node in partitions}),
    ]
    files |= {"values.json": (_json(values), PUBLIC), "secrets.json": (_list(kept), SECRET)}
    return _write(archives / "server.tar.gz", "server", files)


def secret(name: str, data: Mapping[str, bytes]) -> dict[str, Any]:
    """A Kubernetes Secret."""
    held = {key: value.decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "stringData": held}


def config_map(name: str, data: Mapping[str, bytes]) -> dict[str, Any]:
    """A Kubernetes ConfigMap."""
    held = {key: value.decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": held}


def _image(project: Project, role: str) -> dict[str, str]:
    repository, _, tag = project.server.image(role).rpartition(":")
    return {role: repository, "tag": tag}


def _copy(file: Path) -> tuple[bytes, int]:
    return file.read_bytes(), PUBLIC


def _lines(settings: Mapping[str, str]) -> bytes:
    return "".join(f"{name}={value}\n" for name, value in settings.items()).encode()


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _list(items: list[dict[str, Any]]) -> bytes:
    return _json({"apiVersion": "v1", "kind": "List", "items": items})


def _write(file: Path, top: str, files: Files) -> Path:
    """Write an archive with every file below ``top``; the same files always give the same bytes."""
    folders = {top} | {f"{top}/{parent}" for path in files for parent in map(str, Path(path).parents) if parent != "."}
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for folder in sorted(folders):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, FOLDER, USER, USER
            archive.addfile(entry)
        for path, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(f"{top}/{path}")
            entry.size, entry.mode, entry.uid, entry.gid = len(content), mode, USER, USER
            archive.addfile(entry, io.BytesIO(content))
    write_whole(file, packed.getvalue(), mode=0o600)
    return file
