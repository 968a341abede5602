"""The claim of a node that an update is its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flwr.app import ConfigRecord, RecordDict

CONTRIBUTION: Final = "contribution"  # ConfigRecord: what follows

ADDRESS: Final = "address"
SIGNATURE: Final = "signature"


@dataclass(frozen=True, slots=True)
class Claim:
    """The address of the node that claims the update, and its signature over what was sent."""

    address: str
    signature: bytes

    @classmethod
    def read(cls, content: RecordDict) -> Claim | None:
        """The claim in a reply; None if it is missing or not well-formed."""
        found = content.config_records.get(CONTRIBUTION)
        address, signature = (found.get(key) for key in (ADDRESS, SIGNATURE)) if found is not None else (None, None)
        return cls(address, signature) if isinstance(address, str) and isinstance(signature, bytes) else None

    def record(self) -> ConfigRecord:
        """As it goes into a reply."""
        return ConfigRecord({ADDRESS: self.address, SIGNATURE: self.signature})
