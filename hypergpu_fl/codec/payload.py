"""The codec behind the strategy's seam: ``strategies.payload.Payload``."""

from __future__ import annotations

from strategies.aggregation import Update
from strategies.errors import Reason, Refused
from strategies.layout import Arrays, Layout, Vector
from strategies.payload import Level, ModelBlob

WHOLE_MODEL_LEVEL = "fp16"


class CodecPayload:
    """Encodes each published model once a level, and decodes updates; see ``Payload``."""

    def __init__(self, layout: Layout) -> None:
        from hypergpu_fl.codec import LEVELS

        self.levels = tuple(Level(level.name, level.expected_ratio) for level in LEVELS.values())
        self._layout = layout
        self._blob = b""

    def publish(self, version: int, model_P: Vector, buffers: Arrays) -> None:
        """See ``Payload.publish``."""
        from hypergpu_fl.codec import encode

        self._blob = encode(WHOLE_MODEL_LEVEL, model_P, self._layout, buffers, base=version)

    def model_for(self, node: str, held: int, level: str) -> ModelBlob:
        """See ``Payload.model_for``."""
        return ModelBlob(self._blob)

    def decode(self, blob: bytes) -> Update:
        """See ``Payload.decode``."""
        from hypergpu_fl.codec import decode
        from hypergpu_fl.errors import CodecError

        try:
            return decode(blob, self._layout)
        except CodecError as error:
            raise Refused(Reason.MALFORMED, str(error)) from error
