"""``hypergpu keys``: keystores of nodes and the coordinator."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.config import read_secrets
from hypergpu_fl.errors import UsageError
from hypergpu_fl.files import path_meant
from hypergpu_fl.redaction import register

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Make and show keystores of nodes and the coordinator."
)

_ENVIRONMENT = "HYPERGPU_KEYSTORE_PASSWORD"


def password_of(file: Path, *, new: bool = False) -> str:
    """Password of a keystore: from the environment, else asked for on the terminal.

    Raises
    ------
    UsageError
        If it is in neither.
    """
    given = read_secrets().keystore_password
    password = given.get_secret_value() if given else ""
    if not password:
        if not os.isatty(0):
            raise UsageError(f"the password of {file} is not given", f"set {_ENVIRONMENT}, or run in a terminal")
        password = typer.prompt(f"password of {file}", hide_input=True, confirmation_prompt=new)
    if not password:
        raise UsageError("an empty password protects nothing", f"set {_ENVIRONMENT} to a real one")
    register(password)
    return password


@app.command()
def new(
    file: Annotated[Path, typer.Argument(help="keystore to write; must not exist")],
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Make a key and keep it in an encrypted keystore (Web3 Secret Storage, version 3).

    Example: hypergpu keys new keystore.json
    """
    from eth_account import Account

    from hypergpu_fl.chain.signer import KeySigner

    if file.exists():
        raise UsageError(f"{file} exists; a key is never overwritten", "choose another file")
    password = password_of(file, new=True)
    secret = secrets.token_bytes(32)
    address = KeySigner(secret).address
    keystore = Account.encrypt(secret, password)
    file.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        json.dump(keystore, opened)
    render({"address": address, "file": str(file)}, format)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="keystore")],
    check: Annotated[bool, typer.Option("--check", help="open it, to see that the password is right")] = False,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Show a keystore's address; the key itself is never shown.

    Example: hypergpu keys show keystore.json --check
    """
    from hypergpu_fl.chain.signer import KeySigner
    from hypergpu_fl.keccak import checksum_address

    if check:
        address = KeySigner.from_keystore(file, password_of(file)).address
    else:
        try:
            raw = bytes.fromhex(str(json.loads(file.read_text())["address"]).removeprefix("0x"))
            address = checksum_address(raw)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            raise UsageError(f"{file} is no keystore", path_meant(file) or "make one with `keys new`") from None
    render({"address": address, "file": str(file), "opens": check or None}, format)
