"""A node's receipts: checked when they come, and kept on its own disk."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from hypergpu_fl.errors import VerificationError
from hypergpu_fl.files import private_folder, write_whole
from hypergpu_fl.ledger.proof import ContributionProof, verify_proof

_MAX_BYTES = 1 << 20


def keep_receipt(text: str | bytes, *, node: str, folder: Path) -> Path:
    """Check a receipt that the server sent and write it to ``folder/<session>/<round>.json``.

    Parameters
    ----------
    text : str | bytes
        JSON as `Settlement.receipts` gives it.
    node : str
        EIP-55 address of the node that keeps it.
    folder : Path
        The node's folder of receipts; made if need be.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    VerificationError
        If the receipt is malformed, proves nothing, or is another node's.
    """
    remedy = "the server sent a receipt that proves nothing; ask its operator for the ledger"
    if len(text) > _MAX_BYTES:
        raise VerificationError(f"a receipt of {len(text)} bytes is none", remedy)
    try:
        receipt = ContributionProof.model_validate_json(text)
    except ValidationError as error:
        raise VerificationError(f"the receipt is malformed: {error.errors()[0]['msg']}", remedy) from None
    verify_proof(receipt)
    if receipt.value[3] != node:
        raise VerificationError(f"the receipt is for {receipt.value[3]}, this node is {node}", remedy)
    path = folder / receipt.value[0][2:18] / f"{int(receipt.value[1])}.json"
    private_folder(path.parent)
    write_whole(path, receipt.model_dump_json(indent=1) + "\n")
    return path
