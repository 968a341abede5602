"""What a node's JSON-RPC error means, in the words of Geth, Nethermind, Besu, Erigon, Reth and Monad.

No standard defines these texts, and those who lease nodes out add their own. They are compared without case, blanks and
punctuation, because one node says "already known" and another "AlreadyKnown".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final


class Meaning(Enum):
    """What an error means to a sender."""

    KNOWN = auto()  # the node has this transaction, or another with its nonce; the receipt tells which
    UNDERPRICED = auto()
    NO_FUNDS = auto()
    NO_FEE_MARKET = auto()  # the chain takes no EIP-1559 transactions
    REVERTED = auto()
    NO_METHOD = auto()
    BUSY = auto()
    OTHER = auto()


_WORDS: Final = (
    (Meaning.OTHER, r"exceedsblockgaslimit|maxbatchsize|rangelimit"),  # for which Besu uses the code of a busy node
    (
        Meaning.NO_FEE_MARKET,
        r"typenotsupported|unsupportedtransactiontype|invalidtransactiontype|notsupportedtxtype|londonisnotactive",
    ),
    (
        Meaning.KNOWN,
        r"alreadyknown|alreadyimported|alreadyexists|alreadyin(the)?(mem|tx|transaction)?pool|(?<!un)knowntransaction"
        r"|samehash|nonce(is)?toolow|oldnonce|ownnoncealreadyused|transactionhadhigherpriority",
    ),
    (
        Meaning.UNDERPRICED,
        r"underpriced|lessthanblockbasefee|feetoolow|feecaptoolow|gaspricebelow|gaspricetoolow|belowchainminimum"
        r"|couldnotreplaceexistingtx|replacementnotallowed|insufficientgaspricetoreplace",
    ),
    (Meaning.NO_FUNDS, r"insufficientfunds|insufficientbalance|upfrontcostexceeds|enoughfunds|balancetoolow"),
    (Meaning.REVERTED, r"revert|vmexecutionerror"),
    (
        Meaning.NO_METHOD,
        r"method(\w*)(not(found|supported|available|enabled)|doesnotexist|unsupported)|unsupportedmethod",
    ),
    (
        Meaning.BUSY,
        r"poolisfull|poolisnotready|poolnotenabled|toomanyrequests|ratelimit|rateexceeded"
        r"|requestlimitreached|requestspersecond|persecondcapacity|creditslimited|(capacity|usage|request)limit|quota"
        r"|initialsync|syncing|timeout|timedout",
    ),
)
# Only codes that all nodes use for the same: -32007, for instance, is a busy QuickNode, and a sender that Besu refuses.
_CODES: Final = {
    3: Meaning.REVERTED,
    -32015: Meaning.REVERTED,
    -32601: Meaning.NO_METHOD,
    -32604: Meaning.NO_METHOD,
    -32005: Meaning.BUSY,
    -32016: Meaning.BUSY,
    -32017: Meaning.BUSY,
    429: Meaning.BUSY,
}


def meaning(error: Mapping[str, Any]) -> Meaning:
    """Meaning of an error object: by its words first, because nodes use one code for many things."""
    squeezed = re.sub(r"[^a-z0-9]", "", str(error.get("message", ""))[:1000].lower())
    for found, words in _WORDS:
        if re.search(words, squeezed):
            return found
    code = error.get("code")
    return _CODES.get(code, Meaning.OTHER) if isinstance(code, int) else Meaning.OTHER


def revert_data(error: Mapping[str, Any]) -> str | None:
    """What a contract reverted with, as hexadecimal digits; Nethermind writes ``Reverted 0x...``."""
    data = error.get("data")
    if isinstance(data, Mapping):
        data = data.get("data")
    return data.removeprefix("Reverted ").removeprefix("revert: ") if isinstance(data, str) else None
