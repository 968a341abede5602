"""What a coordinator signs beside its transactions, so that books can be checked without asking a chain.

There are two EIP-712 structs, in the same domain as contributions: a round's head, whose signature makes a receipt, and
the books as a whole.
"""

from __future__ import annotations

from typing import Final

from hypergpu_fl.keccak import keccak
from hypergpu_fl.ledger.contribution import typed_digest, word

_ROUND: Final = keccak(b"SealedRound(bytes32 session,uint64 round,bytes32 head)")
_BOOKS: Final = keccak(b"Books(bytes32 session,uint64 rounds,bytes32 head,bool ended,bytes32 document)")


def round_digest(session: bytes, round: int, head: bytes) -> bytes:
    """Digest of the statement that the session's head after `round` is `head`."""
    return typed_digest(_ROUND + session + word(round) + head)


def books_digest(session: bytes, *, rounds: int, head: bytes, ended: bool, document: bytes) -> bytes:
    """Digest of the statement that the session's books hold `rounds` rounds up to `head`, and hash to `document`.

    Parameters
    ----------
    session, head, document : bytes
        32 bytes each; `document` is the hash of everything in the books.
    rounds : int
        Number of rounds.
    ended : bool
        Whether no round follows.
    """
    return typed_digest(_BOOKS + session + word(rounds) + head + word(int(ended)) + document)
