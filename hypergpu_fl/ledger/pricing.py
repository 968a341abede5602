"""How a round was priced, as the books keep it: the scoring method, and the losses and values behind the scores.

Losses and values are integers in units of 1e-9 of the loss (`hypergpu_fl.ledger.scoring.VALUE_UNIT`), so that each
value has one spelling. The hash of the record is a leaf of the round's tree.
"""

from __future__ import annotations

from hypergpu_fl.keccak import keccak
from hypergpu_fl.ledger.contribution import hash_blob, word
from hypergpu_fl.ledger.fields import U32, U64, Record, Signed


class PricedContribution(Record):
    """A contribution's value before public movements were taken out of it, and its work in milliseconds."""

    value: Signed
    work: U64


class Pricing(Record):
    """How a round's scores came about.

    Parameters
    ----------
    scoring : str
        Name and version of the method, such as ``aumann_shapley/2``.
    loss_before, loss_after : int or None
        Validation loss of the round's base, and of the base plus the plain mean; None if it was not measured.
    movements : int
        Number of earlier movements of the model whose span was taken out of every update.
    contributions : list
        One entry for each of the round's contributions, in their order.
    """

    scoring: str
    loss_before: Signed | None
    loss_after: Signed | None
    movements: U32
    contributions: list[PricedContribution]

    def leaf(self, session: bytes, round: int) -> bytes:
        """Leaf of the round's tree: ``keccak(keccak(abi.encode(session, round, digest, 1)))``.

        ``digest`` is the SHA-256 of the record as JSON without blanks, in the order of the fields. No other kind of
        leaf is made of four words.
        """
        digest = hash_blob(self.model_dump_json().encode())
        return keccak(keccak(session + word(round) + digest + word(1)))
