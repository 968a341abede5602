"""The event log compared with the heads that a ledger's rounds seal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypergpu_fl.errors import VerificationError
from hypergpu_fl.ledger.bundle import RoundRecord
from strategies.round.lines import read_hash

_REMEDY = "the event log was altered, or belongs to another run; take it from its source again"


def verify_log(rounds: Sequence[RoundRecord], lines: Iterable[bytes]) -> int:
    """Look for every sealed head among the hashes of a log's lines, in the rounds' order.

    Lines after the last sealed head belong to no sealed round and are not read.

    Returns
    -------
    int
        Rounds whose head was found; rounds that seal no head are skipped.

    Raises
    ------
    VerificationError
        At the first line whose hash does not fit its content and the line before it, or at the first round whose head
        is the hash of no line.
    """
    before, found, rest = "", 0, enumerate(lines)
    for record in rounds:
        if record.log_head is None:
            continue
        for number, line in rest:
            head = read_hash(line.rstrip(b"\n"), before)
            if head is None:
                raise VerificationError(
                    f"round {record.round}: line {number} of the event log has a hash that does not fit what it says",
                    _REMEDY,
                )
            before = head
            if head == record.log_head.hex():
                break
        else:
            raise VerificationError(f"round {record.round}: the hash that it seals is no line's of the log", _REMEDY)
        found += 1
    return found
