"""A node's receipts, which are checked on arrival and kept on the node's own disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pydantic_core import from_json

from hypergpu_fl.errors import LedgerError, VerificationError
from hypergpu_fl.files import private_folder, write_whole
from hypergpu_fl.ledger.bundle import read_file
from hypergpu_fl.ledger.fields import parse
from hypergpu_fl.ledger.proof import RECEIPT, ContributionProof, verify_proof

_MAX_BYTES = 1 << 20
MOST_RECEIPTS: Final = 64  # in one list; a server sends 8


def read_receipts(place: Path) -> list[ContributionProof]:
    """Read and check receipts or proofs: one file, or the ``.json`` files of a folder.

    Raises
    ------
    LedgerError
        If there is none, or one cannot be read.
    VerificationError
        If one is malformed or proves nothing; names the file.
    """
    files = sorted(place.glob("*.json")) if place.is_dir() else [place]
    if not files:
        raise LedgerError(f"{place} holds no receipts", "give a node's folder receipts/<address>/<session>, or a file")
    receipts = []
    for file in files:
        text = read_file(file)
        if len(text) > _MAX_BYTES:
            raise VerificationError(
                f"{file}: a receipt of {len(text)} bytes is none", "take the file out of the folder"
            )
        receipt = parse(ContributionProof, text, str(file))
        try:
            verify_proof(receipt)
        except VerificationError as error:
            raise VerificationError(f"{file}: {error.cause}", "take the file out of the folder") from None
        receipts.append(receipt)
    return receipts


def keep_receipts(text: str, *, node: str, folder: Path) -> list[VerificationError]:
    """Keep each receipt of a JSON list as `keep_receipt` does; why those that were refused were.

    Each is judged by itself, so a refused one costs the others nothing. Receipts beyond ``MOST_RECEIPTS`` are refused
    unread.
    """
    remedy = "the server sent no list of receipts; ask its operator for the ledger"
    if len(text) > MOST_RECEIPTS * _MAX_BYTES:
        return [VerificationError(f"a list of {len(text)} bytes is none of receipts", remedy)]
    try:
        listed = from_json(text)  # unlike json's, this reader bounds the nesting
    except ValueError as error:
        return [VerificationError(f"the receipts are no JSON: {error}", remedy)]
    if not isinstance(listed, list):
        return [VerificationError("the receipts are no list", remedy)]
    refused = []
    for receipt in listed[:MOST_RECEIPTS]:
        try:
            keep_receipt(json.dumps(receipt), node=node, folder=folder)
        except VerificationError as error:
            refused.append(error)
        except ValueError as error:  # a number or a text that JSON can hold and nothing can write
            refused.append(VerificationError(f"the receipt cannot be read: {error}", remedy))
    if len(listed) > MOST_RECEIPTS:
        cause = f"{len(listed)} receipts at once, at most {MOST_RECEIPTS} are read"
        refused.append(VerificationError(cause, remedy))
    return refused


def keep_receipt(text: str | bytes, *, node: str, folder: Path) -> Path:
    """Check a receipt that the server sent and write it to ``folder/<node>/<session>/<round>.json``.

    Parameters
    ----------
    text : str | bytes
        JSON as `Settlement.receipts` returns it.
    node : str
        EIP-55 address of the node that keeps the receipt.
    folder : Path
        Folder of receipts, which several nodes of one machine may share; created if needed.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    VerificationError
        If the receipt is malformed, proves nothing, belongs to another node, or contradicts the one kept for that
        round. The earlier receipt is never replaced.
    """
    remedy = "the server sent a receipt that proves nothing; ask its operator for the ledger"
    if len(text) > _MAX_BYTES:
        raise VerificationError(f"a receipt of {len(text)} bytes is none", remedy)
    receipt = parse(ContributionProof, text, "the receipt")
    if receipt.format != RECEIPT:
        raise VerificationError(f"the receipt is a {receipt.format}", remedy)
    verify_proof(receipt)
    if receipt.value[3] != node:
        raise VerificationError(f"the receipt is for {receipt.value[3]}, this node is {node}", remedy)
    path = folder / node / receipt.value[0].hex()[:16] / f"{receipt.value[1]}.json"
    content = receipt.model_dump_json(indent=1) + "\n"
    if not path.exists():
        private_folder(path.parent)
        write_whole(path, content)
    elif path.read_text(encoding="utf-8") != content:
        raise VerificationError(
            f"the receipt contradicts the one kept in {path}",
            "the earlier one stays; the coordinator has signed both, or one of them is an older release's",
        )
    return path
