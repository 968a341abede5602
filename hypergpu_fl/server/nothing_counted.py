"""A run in which no update counted, or no model was kept, has trained nothing, so it must fail and say why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hypergpu_fl.errors import RunFailed
from hypergpu_fl.server.node_rounds import Row
from strategies.errors import Reason
from strategies.prose import amount

_LEARN_SLOWER: Final = "lower training.learning_rate or training.weight_decay, and look for NaN in the data"
_TAKE_LONGER: Final = "raise network.deadline_s (0: it adapts by itself), or ask for less local work"
# Error replies whose remedy lies with whoever started the run, not with the node.
_SAID: Final = {"hold NaN, Inf": _LEARN_SLOWER, "no reply within": _TAKE_LONGER}
_SAME: Final = "let server and nodes run the same version with the same configuration"
_REMEDIES: Final = {
    Reason.ERROR_REPLY: "mend what the nodes say there; `hypergpu nodes` shows the last failure of each",
    Reason.LEFT: "see in the nodes' own logs why they leave",
    Reason.NON_FINITE: _LEARN_SLOWER,
    Reason.NORM_OUTLIER: "lower training.learning_rate",
    Reason.WRONG_MODEL: _SAME,
    Reason.MALFORMED: _SAME,
    Reason.TOO_LARGE: _SAME,
    Reason.UNKNOWN_BASE: _TAKE_LONGER,
    Reason.TOO_LATE: _TAKE_LONGER,
    Reason.BAD_SIGNATURE: "let each node sign with the key that it registered",
    Reason.NOT_ALLOWED: "add the nodes' addresses to blockchain.allow_list",
}


def failure_of(rows: Sequence[Row], history: Sequence[Mapping[str, Any]] = ()) -> RunFailed | None:
    """The failure of a run that trained nothing, with the most common reason; None if it trained something.

    Its rows show no update that counted, or its ``history``, of ``report.json``, no round whose model was kept.
    """
    if any(row["verdict"] in ("counted", "late") for row in rows):
        return _never_kept(history)
    refusals = [row["refusal"] for row in rows if row["verdict"] in ("refused", "left")]
    if not refusals:
        return RunFailed(
            f"nothing was trained: none of {amount(len(rows), 'order')} was answered in time",
            f"run more rounds, {_TAKE_LONGER}",
        )
    reason, times = Counter(_reason(refusal) for refusal in refusals).most_common(1)[0]
    example = next(refusal for refusal in refusals if _reason(refusal) == reason)
    replies = amount(len(refusals), "reply")
    return RunFailed(
        f"nothing was trained: no update counted, the server refused {times} of {replies} as {example}",
        _remedy(reason, example),
    )


def _never_kept(history: Sequence[Mapping[str, Any]]) -> RunFailed | None:
    exploded = [entry for entry in history if entry.get("kept") is False and entry["arrived"]]
    if not exploded or any(entry.get("kept", True) for entry in history):
        return None
    broken = sum(entry["loss"] is None or not math.isfinite(entry["loss"]) for entry in exploded)
    what = "was not finite" if 2 * broken >= len(exploded) else "was far above the untrained model's"
    return RunFailed(
        f"nothing was trained: no round's model was kept, in {len(exploded)} of {amount(len(history), 'round')} since "
        f"its weights or its held-out loss exploded; mostly, the loss {what}",
        _LEARN_SLOWER,
    )


def _remedy(reason: str, example: str) -> str:
    if reason == Reason.ERROR_REPLY and (said := next((r for words, r in _SAID.items() if words in example), "")):
        return said
    return next((remedy for known, remedy in _REMEDIES.items() if known == reason), "see `hypergpu nodes`")


def _reason(refusal: str) -> str:
    return refusal.partition(":")[0]
