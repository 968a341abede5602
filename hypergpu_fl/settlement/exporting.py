"""Writing the books as a file, with or without the coordinator's key."""

from __future__ import annotations

from pathlib import Path

from hypergpu_fl.chain.embedded import CHAIN_ID
from hypergpu_fl.chain.signer import Signer
from hypergpu_fl.config import Blockchain, Secrets
from hypergpu_fl.ledger.bundle import Bundle, write_bundle
from hypergpu_fl.settlement.books_seal import sign_books
from hypergpu_fl.settlement.evidence import verify
from hypergpu_fl.settlement.opening import coordinator_signer
from hypergpu_fl.settlement.reading import books_and_end
from hypergpu_fl.settlement.run_key import KEY_FILE, run_key


def export_books(folder: Path, path: Path, blockchain: Blockchain, secrets: Secrets) -> Bundle:
    """Write a run's books to `path`, signed again if the coordinator's key is at hand; returns what was written.

    Raises
    ------
    LedgerError
        If the run has sealed nothing yet, or its books do not verify.
    ChainError
        If a keystore is named that does not open.
    """
    bundle, ended = books_and_end(folder)
    coordinator = verify(bundle).coordinator
    signer = _key_at_hand(folder, bundle, blockchain, secrets)
    if bundle.seal is None and signer is not None and signer.address == coordinator:
        bundle = bundle.model_copy(update={"seal": sign_books(bundle, signer, ended=ended)})
    write_bundle(path, bundle)
    return bundle


def _key_at_hand(folder: Path, bundle: Bundle, blockchain: Blockchain, secrets: Secrets) -> Signer | None:
    if bundle.session.chain_id in (0, CHAIN_ID):
        return run_key(folder, address=bundle.session.coordinator) if (folder / KEY_FILE).exists() else None
    if blockchain.keystore or secrets.coordinator_key is not None:
        return coordinator_signer(blockchain, secrets)
    return None
