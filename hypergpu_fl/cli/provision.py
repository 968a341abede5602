"""``hypergpu node provision``: archives for the server and each site, from one file that names them and their nodes."""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from hypergpu_fl.cli.project import Server, read_project
from hypergpu_fl.cli.render import Format, FormatOption, render
from hypergpu_fl.errors import UsageError
from hypergpu_fl.files import private_folder, write_whole

_RENEW: Final = datetime.timedelta(days=30)  # before the end of the server's certificate


def shares(nodes: list[str], before: Mapping[str, int], *, close_gaps: bool = False) -> dict[str, int]:
    """Partition id of each node: the one it had before, else the lowest free one.

    With ``close_gaps`` those that had one beyond the number of nodes take the free ones, too.

    Examples
    --------
    >>> shares(["a", "c", "d"], {"a": 0, "b": 1, "c": 2})
    {'a': 0, 'c': 2, 'd': 1}
    >>> shares(["a", "c", "d"], {"a": 0, "b": 1, "c": 2, "d": 3}, close_gaps=True)
    {'a': 0, 'c': 2, 'd': 1}
    """
    kept = {node: before[node] for node in nodes if node in before and not (close_gaps and before[node] >= len(nodes))}
    free = iter(sorted(set(range(len(nodes) + len(kept))) - set(kept.values())))
    return kept | {node: next(free) for node in nodes if node not in kept}


def provision(
    project: Annotated[Path, typer.Argument(help="TOML file that names server, sites and nodes")],
    out: Annotated[
        Path | None, typer.Option("--out", help="the operator's folder; default: `provisioned` beside the file")
    ] = None,
    close_gaps: Annotated[
        bool, typer.Option("--close-gaps", help="nodes with the highest partitions take those of nodes that have left")
    ] = False,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Make one archive for the server and one for each site, with everything they need and nothing of the others.

    The file has a table [server] with `address` (host:port) and optionally `names`, `images` and `tag`. It has a table
    [sites.NAME] for each site with `nodes` (a list of names) and optionally `gpu`. To add or remove sites, change the
    file and give the command again: the keys and partitions of the others stay. Nodes that leave leave gaps in the
    partitions; before the next run, --close-gaps gives those to the nodes with the highest ones, whose archives change.
    The authority's key stays in the operator's folder.

    Example: hypergpu node provision project.toml
    """
    from hypergpu_fl.cli.archives import server_archive, site_archive
    from hypergpu_fl.cli.submission import app_folder

    wanted = read_project(project)
    folder, deploy = private_folder(out or project.resolve().with_name("provisioned")), app_folder() / "deploy"
    noted = folder / "partitions.json"
    nodes = [node for site in wanted.sites.values() for node in site.nodes]
    partitions = shares(nodes, _noted(noted), close_gaps=close_gaps)
    _authority(folder / "authority", wanted.server)
    for node in partitions:
        _node(folder / "nodes" / node, node)
    write_whole(noted, json.dumps(partitions, indent=2) + "\n", mode=0o600)

    archives = private_folder(folder / "archives")
    rows = [{"archive": str(server_archive(archives, deploy, folder, wanted, partitions)), "nodes": ""}]
    for name, site in wanted.sites.items():
        archive = site_archive(archives, deploy, folder, wanted, name, partitions)
        rows.append({"archive": str(archive), "nodes": ", ".join(f"{node}: {partitions[node]}" for node in site.nodes)})
    for stale in archives.glob("*.tar.gz"):
        if stale.name.removesuffix(".tar.gz") not in {"server", *wanted.sites}:
            stale.unlink()
    render(rows, format)
    if missing := sorted(set(range(max(partitions.values()))) - set(partitions.values())):
        typer.echo(
            f"warning: nobody has partition {', '.join(map(str, missing[:10]))}{', ...' if missing[10:] else ''}; "
            f"a run with training.num_nodes = {len(nodes)} refuses those above {len(nodes) - 1}; "
            "give the command again with --close-gaps before the next run",
            err=True,
        )


def _noted(file: Path) -> dict[str, int]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(node): int(share) for node, share in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"{file} cannot be read: {error}", "put it back as it was, or give another --out") from None


def _authority(folder: Path, server: Server) -> None:
    """Make or renew certificates that are missing, old or for other names; make the SuperExec's secret if missing."""
    from cryptography import x509

    from hypergpu_fl.network.certificates import host_names, write_certificates

    private_folder(folder)
    now, hosts = datetime.datetime.now(datetime.UTC), [server.host, *server.names, "superlink", "proxy"]
    try:
        there = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
        names = set(there.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        fresh = there.not_valid_after_utc - now > _RENEW and names == set(host_names(hosts))
    except (OSError, ValueError):
        fresh = False
    if not fresh:
        write_certificates(folder, hosts, now=now)
    if not (folder / "superexec.secret").exists():
        write_whole(folder / "superexec.secret", secrets.token_hex(32), mode=0o600)


def _node(folder: Path, name: str) -> None:
    """Make a node's key pair, its keystore and the keystore's password, unless they exist."""
    from eth_account import Account

    from hypergpu_fl.network.certificates import write_node_key

    if not (folder / f"{name}.pub").exists():
        private_folder(folder)
        write_node_key(folder, name)
    if not (folder / "keystore.json").exists():
        password = secrets.token_urlsafe(24)
        write_whole(folder / "password", password, mode=0o600)
        keystore = json.dumps(Account.encrypt(secrets.token_bytes(32), password))
        write_whole(folder / "keystore.json", keystore, mode=0o600)
