"""A node's receipts: checked when they come, and kept on its own disk."""

from __future__ import annotations

from pathlib import Path

from hypergpu_fl.errors import VerificationError
from hypergpu_fl.files import private_folder, write_whole
from hypergpu_fl.ledger.fields import parse
from hypergpu_fl.ledger.proof import RECEIPT, ContributionProof, verify_proof

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
        If the receipt is malformed, proves nothing, is another node's, or contradicts the one kept for that round. The
        earlier one is never replaced.
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
    path = folder / receipt.value[0].hex()[:16] / f"{receipt.value[1]}.json"
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
