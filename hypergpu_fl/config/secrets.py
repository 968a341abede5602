"""Secrets of a process: from the environment or ``.env`` only, masked wherever they are shown."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from hypergpu_fl.redaction import register


class Secrets(BaseSettings):
    """The variables of ``redaction.SECRETS``; never in run-config, which every node can read.

    Reading them registers them for redaction, so that no log line or error of this process can show them.
    """

    model_config = SettingsConfigDict(env_prefix="HYPERGPU_", env_ignore_empty=True, extra="ignore", frozen=True)

    coordinator_key: SecretStr | None = None
    keystore_password: SecretStr | None = None
    node_key: SecretStr | None = None


def read_secrets(dotenv: Path | None = Path(".env")) -> Secrets:
    """Secrets of this process's environment, over those of a ``.env`` file."""
    secrets = Secrets(_env_file=dotenv)
    for secret in (secrets.coordinator_key, secrets.keystore_password, secrets.node_key):
        if secret is not None:
            register(secret.get_secret_value())
    return secrets
