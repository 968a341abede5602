"""The ledger contract as Python calls."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from eth_abi.exceptions import DecodingError

from hypergpu_fl.chain import abi
from hypergpu_fl.chain.client import Client, Tag
from hypergpu_fl.chain.errors import Unavailable


class SessionStatus(IntEnum):
    """Status of a session, as in the contract."""

    NONE = 0
    OPEN = 1
    PAUSED = 2
    CLOSED = 3


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session as the contract holds it; amounts in wei, `next` is the round it expects."""

    coordinator: str
    next: int
    status: SessionStatus
    pool: int
    owed: int
    head: bytes
    paid: int
    pending_coordinator: str


class LedgerContract:
    """Reads of the contract at an address."""

    def __init__(self, client: Client, address: str) -> None:
        self._client = client
        self.address = address

    def session(self, session: bytes, tag: Tag = "latest") -> SessionState:
        """State of a session; status NONE if it does not exist."""
        ((coordinator, upcoming, _, status, pool, owed, head, paid, pending),) = self._read("session", session, tag=tag)
        if status not in [member.value for member in SessionStatus]:
            raise self._strange("session")
        return SessionState(
            _checksummed(coordinator), upcoming, SessionStatus(status), pool, owed, head, paid,
            _checksummed(pending),
        )  # fmt: skip

    def session_id(self, coordinator: str, salt: bytes) -> bytes:
        """Id of the session that `coordinator` opens with `salt`."""
        (session,) = self._read("sessionId", coordinator, salt)
        return bytes(session)

    def head_after(self, session: bytes, round: int) -> bytes:
        """Head after a round: the session's id after round 0, zeros after a round that is not committed."""
        (head,) = self._read("headAfter", session, round)
        return bytes(head)

    def paid_rounds(self, session: bytes, account: str, upto: int) -> set[int]:
        """Rounds to `upto` whose grants an account has been paid; one call for 256 rounds."""
        paid = set()
        for word in range(upto // 256 + 1):
            (bits,) = self._read("paidRounds", session, account, word)
            paid |= {256 * word + bit for bit in range(256) if bits >> bit & 1}
        return paid

    def _read(self, function: str, *arguments: Any, tag: Tag = "latest") -> tuple[Any, ...]:
        answer = self._client.call(self.address, abi.encode_call(function, *arguments), tag)
        try:
            return abi.decode_result(function, answer)
        except (DecodingError, ValueError):
            raise self._strange(function) from None

    def _strange(self, function: str) -> Unavailable:
        return Unavailable(
            f"{self.address} answers {function} with something else", "check the contract's address and the RPC"
        )


def _checksummed(address: str) -> str:
    from eth_utils.address import to_checksum_address

    return str(to_checksum_address(address))
