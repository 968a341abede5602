"""A node that sends what cannot be used in every second round is excluded; who is refused for other reasons is not."""

from __future__ import annotations

import pytest
from played_rounds import Recorded, reading, rules_of

from strategies.errors import Reason
from strategies.round.events import Answered, Ended, Evaluated, Joined, Published, ReplyFault, RoundDue

OWN_FAULT = {Reason.BAD_SIGNATURE, Reason.MALFORMED, Reason.NON_FINITE, Reason.TOO_LARGE, Reason.WRONG_MODEL}


def excluded_after(reason: Reason, *, every: int, rounds: int = 100) -> int | None:
    """The round after which node 0 is excluded, every ``every``-th reply of which is refused; nobody else may be."""
    run = Recorded(rules_of("random", mode="sync", cohort=3, quota=1.0))
    run.tell(Published(0.0, "00" * 32, 1.0, ()))
    for row in range(3):
        run.tell(Joined(0.0, f"node-{row}", 10))
    for round in range(1, rounds + 1):
        at_s = float(round)
        run.tell(RoundDue(at_s, round))
        for order, opened in sorted(run.state.orders.items()):
            fault = ReplyFault(reason, "") if opened.row == 0 and round % every == 0 else None
            run.tell(Answered(at_s, order, reading(order), fault))
        run.tell(Ended(at_s))
        run.tell(Published(at_s, f"{round:064x}", 1.0, ()))
        run.tell(Evaluated(at_s, 1.0 / round))
        assert not run.state.fleet.excluded[1:].any()
        if run.state.fleet.excluded[0]:
            return round
    return None


@pytest.mark.parametrize("reason", Reason)
def test_a_node_every_second_reply_of_which_is_refused_is_excluded_if_it_lies_in_what_it_sent(reason: Reason) -> None:
    assert excluded_after(reason, every=2) == (40 if reason in OWN_FAULT else None)


def test_a_node_whose_training_overflows_in_every_third_round_loses_no_more_than_that() -> None:
    assert excluded_after(Reason.NON_FINITE, every=3) is None
