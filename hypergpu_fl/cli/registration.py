"""Who may take part: shutting nodes out through the SuperLink's Control API.

``flwr supernode list`` shows neither names nor keys, so this uses Flower's own client.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection
from pathlib import Path

from hypergpu_fl.errors import NetworkError


def unregister_others(superlink: str, keys: Collection[Path]) -> list[tuple[str, int]]:
    """Shut out every node whose public key is not among these files; returns name and id of each.

    Raises
    ------
    NetworkError
        If the SuperLink gives no answer.
    """
    from click.exceptions import ClickException

    from strategies.flower_internals import (
        ListNodesRequest,
        UnregisterNodeRequest,
        flwr_cli_exc_handler,
        init_http_client_from_connection,
        read_superlink_connection,
        try_load_public_key,
    )

    kept = {try_load_public_key(file) for file in keys}
    gone = []
    try:
        with contextlib.redirect_stdout(io.StringIO()), flwr_cli_exc_handler():  # Flower prints what it does
            client = init_http_client_from_connection(read_superlink_connection(superlink))
            try:
                for node in client.ListNodes(ListNodesRequest()).nodes_info:
                    if node.public_key not in kept and node.status != "unregistered":
                        client.UnregisterNode(request=UnregisterNodeRequest(node_id=node.node_id))
                        gone.append((node.name, node.node_id))
            finally:
                client.close()
    except ClickException as error:
        raise NetworkError(
            f"no node was shut out: {error.format_message()}",
            f"check that {superlink!r} in Flower's configuration is reachable",
        ) from None
    return gone
