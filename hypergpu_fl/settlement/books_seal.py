"""The coordinator's signature over the books as a whole, which is made when a run ends or is exported."""

from __future__ import annotations

from hypergpu_fl.chain.signer import Signer
from hypergpu_fl.errors import LedgerError, VerificationError
from hypergpu_fl.ledger.bundle import BooksSeal, Bundle
from hypergpu_fl.ledger.identity import recover_signer
from hypergpu_fl.ledger.statement import books_digest
from strategies.prose import amount


def sign_books(bundle: Bundle, signer: Signer, *, ended: bool) -> BooksSeal:
    """Sign everything in the books."""
    rounds, head, document = len(bundle.rounds), bundle.head, bundle.document()
    digest = books_digest(bundle.session.id, rounds=rounds, head=head, ended=ended, document=document)
    return BooksSeal(ended=ended, rounds=rounds, head=head, document=document, signature=signer.sign_digest(digest))


def verify_seal(bundle: Bundle, seal: BooksSeal, coordinator: str) -> None:
    """Check that `coordinator` signed exactly these books.

    Raises
    ------
    VerificationError
        If not; names the first round that is missing or in excess.
    """
    remedy = "the file was altered or cut off; take it from its source again"
    digest = books_digest(
        bundle.session.id, rounds=seal.rounds, head=seal.head, ended=seal.ended, document=seal.document
    )
    try:
        signer = recover_signer(digest, seal.signature)
    except LedgerError as error:
        raise VerificationError(f"the signature under the books: {error.cause}", remedy) from None
    if signer != coordinator:
        raise VerificationError(f"the books are signed by {signer}, not by the coordinator {coordinator}", remedy)
    if (found := len(bundle.rounds)) != seal.rounds:
        raise VerificationError(
            f"round {min(found, seal.rounds) + 1}: the coordinator signed {amount(seal.rounds, 'round')}, "
            f"the file holds {found}",
            remedy,
        )
    if seal.head != bundle.head or seal.document != bundle.document():
        raise VerificationError("the file says something else than the coordinator signed", remedy)
