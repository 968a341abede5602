"""``project.toml``: a server, and sites with their nodes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hypergpu_fl import __version__
from hypergpu_fl.errors import ConfigError, UsageError
from hypergpu_fl.files import path_meant

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")  # names Kubernetes objects and files
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\"'$\\]+):([0-9]{1,5})")
_IMAGES: Final = re.compile(r"[a-z0-9][a-z0-9._:/-]*")
_MOST_NODES: Final = 10_000


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Table):
    """Where nodes reach the server, and the names of its images."""

    address: str
    names: tuple[str, ...] = ()
    images: str = ""
    tag: str = Field(default=__version__, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")

    @field_validator("address")
    @classmethod
    def _has_a_port(cls, address: str) -> str:
        found = _ADDRESS.fullmatch(address)
        if not found or not 0 < int(found[2]) < 65536:
            raise ValueError("be host:port, as nodes reach the proxy; link.example:443")
        return address

    @field_validator("images")
    @classmethod
    def _is_a_registry(cls, images: str) -> str:
        if images and not _IMAGES.fullmatch(images):
            raise ValueError("be a registry and a path; registry.example/team")
        return images.rstrip("/")

    @property
    def host(self) -> str:
        """The address without its port."""
        return self.address.rpartition(":")[0]

    def image(self, role: str) -> str:
        """Name of an image with registry and tag."""
        return f"{self.images}/hypergpu-{role}:{self.tag}" if self.images else f"hypergpu-{role}:{self.tag}"


class Site(_Table):
    """One party: its nodes, and whether they have a GPU."""

    nodes: tuple[str, ...] = Field(min_length=1)
    gpu: bool = False


class Project(_Table):
    """What ``project.toml`` holds."""

    server: Server
    sites: dict[str, Site] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_names_and_stand_once(self) -> Project:
        nodes = [node for site in self.sites.values() for node in site.nodes]
        for name in [*self.sites, *nodes]:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"sites: has {name[:60]!r}, but names are of small letters, digits and dashes, 40 at most"
                )
        if "server" in self.sites:
            raise ValueError("sites: has 'server', the name of the server's own archive")
        if len(nodes) > _MOST_NODES:
            raise ValueError(f"sites: has more nodes than the {_MOST_NODES} that it may have")
        if twice := sorted({node for node in nodes if nodes.count(node) > 1}):
            raise ValueError(f"sites: has the node {twice[0]!r} twice, but a node's name stands once in all sites")
        return self


def read_project(file: Path) -> Project:
    """Project of a TOML file.

    Raises
    ------
    ConfigError
        With all faults of the file, or why it cannot be read.
    UsageError
        If it is not there, or is not TOML.
    """
    from hypergpu_fl.config.faults import faults
    from hypergpu_fl.config.text import read_text

    try:
        tree = tomllib.loads(read_text(file))
    except (FileNotFoundError, tomllib.TOMLDecodeError) as error:
        remedy = path_meant(file) or "see `hypergpu node provision --help`"
        raise UsageError(f"{file} cannot be read: {error}", remedy) from None
    try:
        return Project.model_validate(tree)
    except ValidationError as error:
        known = [f"server.{name}" for name in Server.model_fields] + [
            f"sites.NAME.{name}" for name in Site.model_fields
        ]
        raise ConfigError(faults(error, {}, known)) from None
