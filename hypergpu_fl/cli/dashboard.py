"""``hypergpu dashboard``: the page that shows runs."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import typer

from hypergpu_fl.children import end_with, free_port
from hypergpu_fl.cli.options import Runs, root_of
from hypergpu_fl.cli.superlink import require_free
from hypergpu_fl.config import read_secrets
from hypergpu_fl.errors import UsageError

TOKEN: Final = "HYPERGPU_DASHBOARD_TOKEN"
PORT: Final = 8090
LOG: Final = "dashboard.log"  # in the run's folder, written by the page that `hypergpu run --dashboard` starts
_SHORTEST: Final = 16  # characters of a token that the user chose

app = typer.Typer(add_completion=False, help="Follow runs in the browser.")


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: a free one")] = PORT,
    host: Annotated[
        str, typer.Option(help=f"address to listen on; any but this machine's own asks for a token ({TOKEN})")
    ] = "127.0.0.1",
    runs: Runs = None,
) -> None:
    """Show all runs on a page of this machine: training, nodes, pay and books, live and as they were.

    It reads the runs' folders and changes nothing. /metrics is for Prometheus.

    Example: hypergpu dashboard --port 8090
    """
    import uvicorn

    from hypergpu_fl.dashboard.access import local_only
    from hypergpu_fl.dashboard.server import create_app

    given = _given_token()
    token = given or ("" if local_only(host) else secrets.token_urlsafe(24))
    if port:
        require_free(port)
    port = port or free_port()
    root = root_of(runs)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    # Who chose the token knows it, and what is printed here may be kept in a log.
    typer.echo(f"runs under {root}: {address}{f'?token=... as in {TOKEN}' if given else _query(token)}")
    settings = uvicorn.Config(
        create_app(root, token=token),
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=1,  # event streams never end by themselves
    )
    uvicorn.Server(settings).run()


def _given_token() -> str:
    """The token that the user chose, if any: the page asks for it on a loopback address, too."""
    given = read_secrets().dashboard_token
    token = given.get_secret_value() if given else ""
    if token and len(token) < _SHORTEST:
        raise UsageError(f"{TOKEN} has {len(token)} letters, which can be guessed", f"give it {_SHORTEST} or more")
    return token


def _query(token: str) -> str:
    return f"?token={quote(token)}" if token else ""


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[str]:
    """Show a run, and those beside it, on a page while the run goes on; yields the page's address.

    The page is a process of its own, so that viewers cost the run only processor time.
    """
    port, token = free_port(), _given_token()
    words = ["dashboard", "--port", str(port), "--runs", str(folder.parent)]
    code = "from hypergpu_fl.cli import main; main()"
    with (folder / LOG).open("ab") as sink:
        page = subprocess.Popen(
            [sys.executable, "-P", "-c", code, *words],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            preexec_fn=partial(end_with, os.getpid(), signal.SIGTERM),  # in case we are killed
        )
    try:
        yield f"http://127.0.0.1:{port}/{_query(token)}#/run/{folder.name}/training"
    finally:
        page.terminate()
        page.wait()
