"""What a node has not sent yet, kept until the server says what became of it.

With ``e`` the committed residual, a round goes::

    e = load(ack)                       # settles the round before
    blob, e' = encode_with_feedback(level, delta, e, ...)
    stage(round, e')                    # pending: not yet spent
    send(blob)

The reply may be lost, late or refused; only the next message says. If it acknowledges the pending round, e' becomes
the committed residual. Otherwise the update never counted: e' is dropped and e stays. So the updates that were used
plus what is kept always sum to what those rounds produced, and no lost reply spends the residual.
"""

from __future__ import annotations

from pathlib import Path

from hypergpu_fl.codec.feedback.disk import NodeFolder
from strategies.model.layout import Vector

_COMMITTED, _PENDING = "residual", "pending"


class ResidualStore:
    """Committed and pending residual of one (run, node, model) on the node's disk.

    Parameters
    ----------
    folder : Path
        Root of all such stores of this machine.
    run, node : str
        Whose residual it is.
    model_hash : bytes
        `strategies.model.layout.Layout.hash`.
    size : int
        P.
    max_bytes : int
        Bound for everything below ``folder``; stores of other runs give way, longest unused first.
    """

    def __init__(self, folder: Path, run: str, node: str, model_hash: bytes, size: int, max_bytes: int) -> None:
        self._files = NodeFolder(folder, run, node, model_hash, max_bytes)
        self._size = size

    def load(self, ack_round: int) -> Vector | None:
        """Settle the pending residual and return the committed one; None: nothing is kept.

        ``ack_round`` is the round whose update of this node the server used, -1 for none since its last message.
        """
        pending = self._files.read(_PENDING, self._size)
        if pending is not None:
            if pending[1] == ack_round:
                self._files.rename(_PENDING, _COMMITTED)
                return pending[0]
            self._files.remove(_PENDING)
        committed = self._files.read(_COMMITTED, self._size)
        return None if committed is None else committed[0]

    def stage(self, round: int, residual_P: Vector) -> None:
        """Keep the residual of the update about to be sent in ``round``, until it is settled.

        Raises
        ------
        ResidualRefused
            If it does not fit into the bound.
        """
        self._files.write(_PENDING, residual_P, round)
