"""The codec behind the strategy's seam, ``strategies.model.payload.Payload``."""

from __future__ import annotations

from collections.abc import Sequence

from hypergpu_fl.codec.decoder import decode
from hypergpu_fl.codec.downlink.versions import ModelVersions
from hypergpu_fl.codec.levels import LEVELS
from hypergpu_fl.errors import CodecError
from strategies.errors import Reason, Refused
from strategies.model.aggregation import Update
from strategies.model.layout import Arrays, Layout, Vector
from strategies.planning import Compression

COMPRESSIONS = tuple(Compression(level.name, level.expected_ratio, level.fidelity) for level in LEVELS.values())
CHAIN_LEVEL = "top64"
# The chain gets a common step whenever this share of the versions between two messages to a node has passed. A message
# then carries all steps that the node missed, plus an extra for what they lack. 2/5 and 4/5, and chains at top16 and
# top32, were measured as well.
STEP_SHARE = 0.2
GAP_GAIN = 0.05  # of the newest gap in the running mean


class CodecPayload:
    """Sends each node the change since the view it holds, and decodes updates; see ``Payload``.

    The server takes a node to hold the view that a message brought only once the node has replied from it. One pair of
    versions per node is remembered here; after a restart all nodes get whole views. A new node is taken to have built
    version 0 itself, as every node does from the same configuration; if its first reply does not come, it gets a whole
    view.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._versions = ModelVersions(layout, chain=CHAIN_LEVEL)
        self._tried: set[str] = set()
        self._views: dict[str, int] = {}
        self._sent: dict[str, tuple[int, int]] = {}
        self._gap = 1.0  # versions between two messages to a node, on average

    @property
    def levels(self) -> Sequence[Compression]:
        """See ``Payload.levels``."""
        return COMPRESSIONS

    def publish(self, version: int, model_P: Vector, buffers: Arrays) -> None:
        """See ``Payload.publish``."""
        extend = version - self._versions.view_version >= STEP_SHARE * self._gap
        self._versions.publish(version, model_P, buffers, extend=extend)

    def model_for(self, node: str, held: int, level: str) -> bytes:
        """See ``Payload.model_for``."""
        version, view = self._sent.pop(node, (-1, -1))
        if held < 0:
            self._views.pop(node, None)
            if node not in self._tried:
                self._views[node] = 0
            self._tried.add(node)
        else:
            self._gap += GAP_GAIN * (self._versions.version - held - self._gap)
            if held == version:
                self._views[node] = view
        download = self._versions.download(level, self._views.get(node, -1))
        self._sent[node] = (download.version, download.holds)
        return download.blob

    def decode(self, blob: bytes) -> Update:
        """See ``Payload.decode``."""
        try:
            return decode(blob, self._layout)
        except CodecError as error:
            raise Refused(Reason.MALFORMED, str(error)) from error
