"""``hypergpu node``: commands for a secured deployment and its nodes."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer
from typer.core import TyperCommand

from hypergpu_fl.cli.connections import CONNECTION, require_connection
from hypergpu_fl.cli.passed_on import require_files
from hypergpu_fl.cli.provision import provision
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import NetworkError, UsageError
from hypergpu_fl.files import path_meant
from strategies.failure import without_colours

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Certificates, keys and registration of a deployment; a node's start.",
)

app.command()(provision)

Out = Annotated[Path, typer.Option("--out", help="folder for the files")]


@app.command()
def certs(
    hosts: Annotated[list[str], typer.Argument(help="names and addresses by which nodes reach the SuperLink")],
    out: Out = Path("keys"),
    days: Annotated[int, typer.Option(min=1, max=3650, help="validity of the server's certificate")] = 397,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Make (or renew) the SuperLink's certificate, and an authority to trust it by if there is none yet.

    Example: hypergpu node certs link.example
    """
    from hypergpu_fl.network.certificates import write_certificates

    meant = "" if out.exists() else path_meant(out)
    files = write_certificates(out, hosts, now=datetime.datetime.now(datetime.UTC), days=days)
    render(
        {
            "to every node": str(files["ca.crt"]),
            "on the SuperLink": f"{files['server.pem']} {files['server.key']}",
            "offline": str(out / "ca.key"),
        },
        format,
    )
    if meant:
        typer.echo(f"warning: {out} is new, and so is the authority in it; {meant}", err=True)


@app.command()
def keys(
    names: Annotated[list[str], typer.Argument(help="one name a SuperNode")],
    out: Out = Path("keys"),
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Make the key pair with which a SuperNode proves who it is. The private half stays on that node.

    Example: hypergpu node keys site-a site-b
    """
    from hypergpu_fl.network.certificates import write_node_key

    rows = []
    for name in names:
        private, public = write_node_key(out, name)
        rows.append({"name": name, "private": str(private), "public": str(public)})
    render(rows, format)


@app.command()
def register(
    public_keys: Annotated[list[Path], typer.Argument(help="public keys, NAME.pub")],
    superlink: Annotated[str, typer.Option(metavar="NAME", help="connection in Flower's configuration")] = CONNECTION,
    only: Annotated[bool, typer.Option("--only", help="and shut out every node whose key is not given")] = False,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Admit SuperNodes with these keys. Needs the Control API, which only the SuperLink's own host should reach.

    A node that is admitted already stays.

    Example: hypergpu node register keys/site-a.pub --superlink deployed
    """
    from hypergpu_fl.cli.superlink import flower_environment

    require_connection(superlink, os.environ)
    for key in public_keys:
        _require_public(key)
    rows = []
    flwr = str(Path(sys.executable).with_name("flwr"))
    for key in public_keys:
        command = [flwr, "supernode", "register", str(key), superlink, "--name", key.stem, "--format", "json"]
        done = subprocess.run(
            command,
            env=flower_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = {}
        if "already in use" in str(answer.get("error-message")):
            rows.append({"name": key.stem, "node id": "in already"})
            continue
        if done.returncode or not answer.get("success"):
            cause = answer.get("error-message") or (done.stderr or done.stdout).strip() or "no answer"
            raise NetworkError(
                f"{key} was not registered: {without_colours(cause)}",
                f"check that {superlink!r} in Flower's configuration is reachable",
            )
        rows.append({"name": key.stem, "node id": str(answer.get("node-id", ""))})
    if only:
        os.environ.update(flower_environment(os.environ))
        from hypergpu_fl.cli.registration import unregister_others

        rows += [{"name": name, "node id": "shut out"} for name, _ in unregister_others(superlink, public_keys)]
    render(rows, format)


def _require_public(key: Path) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    if not key.is_file():
        raise UsageError(f"there is no public key {key}", path_meant(key) or "make one with `hypergpu node keys NAME`")
    try:
        load_ssh_public_key(key.read_bytes())
    except (ValueError, UnsupportedAlgorithm):
        public = key.with_name(f"{key.name}.pub")
        raise UsageError(
            f"{key} holds no public key of OpenSSH's form",
            f"give {public}" if public.is_file() else "make one with `hypergpu node keys NAME`",
        ) from None


class _Start(TyperCommand):
    """Lists Flower's options below ours."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help(ctx, formatter)
        from hypergpu_fl.node.supernode import options

        with formatter.section("Options of flower-supernode"):
            formatter.write_dl(list(options()))


@app.command(cls=_Start, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def start(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="where the SuperNode serves its own processes")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="and on which port")] = 9094,
    drain_s: Annotated[
        float,
        typer.Option(min=0, help="seconds that work may go on after SIGTERM; what is not done then is handed back"),
    ] = 20.0,
) -> None:
    """Start a SuperNode: flower-supernode with all its options, but a second faster for every message.

    After SIGTERM or Ctrl-C it finishes the work it has and leaves; after a second one it leaves at once.

    Example: hypergpu node start --superlink link.example:8443 --root-certificates ca.crt
    --auth-supernode-private-key site-a --node-config 'partition-id=0 num-partitions=2 keystore="keystore.json"'
    """
    from hypergpu_fl.cli.superlink import flower_environment, require_free

    for word in context.args:
        if word.startswith(("--isolation", "--ssl-")):
            raise UsageError(
                f"{word} is for a SuperExec of your own", "start flower-supernode and flower-superexec by themselves"
            )
    require_files(context.args)
    require_free(port, host, remedy="give each node of one machine a --port of its own")
    environ = flower_environment(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    from hypergpu_fl.node import supernode  # which imports Flower, and that reads the environment

    supernode.run(with_link(context.args), host=host, port=port, drain_s=drain_s)


def with_link(words: Sequence[str]) -> list[str]:
    """``words`` with the SuperLink's address and authority in ``--node-config`` too, where the ClientApp reads them."""
    given, words = {}, list(words)
    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in ("--superlink", "--root-certificates", "--node-config"):
            given[option] = (i if equals else i + 1, value if equals else "".join(words[i + 1 : i + 2]))
    at, config = given.get("--node-config", (len(words), ""))
    for key in ("superlink", "root-certificates"):
        if f"--{key}" in given and not re.search(rf"(^|\s){key}=", config):
            config = f"{config} {key}={json.dumps(given[f'--{key}'][1])}".strip()
    if at >= len(words):
        return [*words, "--node-config", config] if config and "--node-config" not in words else words
    words[at] = f"--node-config={config}" if words[at].startswith("--node-config=") else config
    return words
