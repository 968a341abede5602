"""Secrets of a process: from the environment or ``.env`` only, masked wherever they are shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from hypergpu_fl.config.environment import environment
from hypergpu_fl.redaction import SECRETS, register


@dataclass(frozen=True, slots=True)
class Secrets:
    """The variables of ``redaction.SECRETS``; never in run-config, which every node can read."""

    coordinator_key: SecretStr | None = None
    keystore_password: SecretStr | None = None
    node_key: SecretStr | None = None
    dashboard_token: SecretStr | None = None


def read_secrets(environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")) -> Secrets:
    """Secrets from this process's environment, else from a ``.env`` file; an empty one counts as missing.

    All code reads secrets through this function, which registers them for redaction, so that no log line or error of
    this process can show them.
    """
    values = environment(os.environ if environ is None else environ, dotenv)
    found: dict[str, SecretStr] = {}
    for name in SECRETS:
        if secret := values.get(name):
            register(secret)
            found[name.removeprefix("HYPERGPU_").lower()] = SecretStr(secret)
    return Secrets(**found)
