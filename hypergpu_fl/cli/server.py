"""``hypergpu server``: the server's side of a deployment, one command a machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hypergpu_fl.cli.connections import CONNECTION, note_connection
from hypergpu_fl.cli.passed_on import require_files
from hypergpu_fl.errors import UsageError
from hypergpu_fl.files import path_meant

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Start a SuperLink, or a SuperExec of its own.")

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=PASSED_ON)
def start(
    context: typer.Context,
    certs: Annotated[
        Path, typer.Option(help="folder of ca.crt, server.pem and server.key, as `hypergpu node certs` makes it")
    ] = Path("keys"),
    host: Annotated[str, typer.Option(help="where to listen; leave it to the proxy to be reached from outside")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="and on which port")] = 8000,
    database: Annotated[Path, typer.Option(help="what outlives a restart")] = Path("superlink.db"),
    connection: Annotated[
        str, typer.Option(help="what this host's Flower configuration calls it, for `hypergpu run --superlink`")
    ] = CONNECTION,
) -> None:
    """Start a SuperLink and what runs ServerApps: flower-superlink with all its options, with TLS and node keys.

    Runs survive a restart of the SuperLink and of everything it has started.

    Example: hypergpu server start --certs keys
    """
    from hypergpu_fl.cli.superlink import flower_environment, require_free

    for word in context.args:
        if word.startswith(("--isolation", "--ssl-", "--insecure", "--simulation")):
            raise UsageError(f"{word} is not for this command", "start flower-superlink by itself for another way")
    require_files(context.args)
    files = {name: (certs / name).expanduser().resolve() for name in ("ca.crt", "server.pem", "server.key")}
    for file in files.values():
        if not os.access(file, os.R_OK):
            raise UsageError(
                f"there is no {file} that this user can read",
                path_meant(file) or "make one with `hypergpu node certs HOST`",
            )
    require_free(port, host, remedy="give another --port, unless the server is started already")
    environ = flower_environment(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    local = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    address = f"[{local}]:{port}" if ":" in local else f"{local}:{port}"
    note_connection(connection, address, files["ca.crt"])
    from hypergpu_fl.server import superlink  # which imports Flower, and that reads the environment

    arguments = ["--host", host, "--port", str(port), "--database", str(database), "--enable-supernode-auth"]
    arguments += ["--ssl-ca-certfile", str(files["ca.crt"]), "--ssl-certfile", str(files["server.pem"])]
    arguments += ["--ssl-keyfile", str(files["server.key"]), *context.args]
    superlink.run(arguments, address=address, tls=("--root-certificates", str(files["ca.crt"])))


@app.command(context_settings=PASSED_ON)
def superexec(context: typer.Context) -> None:
    """Start what runs ServerApps for a SuperLink in another container: flower-superexec with all its options.

    A ServerApp that dies, or ends with this command, is started again by it and continues where its books end.

    Example: hypergpu server superexec --runtime-api-address superlink:8000 --root-certificates /run/keys/ca.crt
    """
    from hypergpu_fl.cli.superlink import flower_environment

    require_files(context.args)
    environ = flower_environment(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    from hypergpu_fl.server import superexec  # which imports Flower, and that reads the environment

    superexec.main(context.args)
