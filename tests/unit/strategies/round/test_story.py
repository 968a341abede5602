"""A node's story gives the reason for every round that began without it, and adds up to the round's weights."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from played_rounds import Recorded, played

from strategies.round.commands import AddUpdate, CloseRound, SendOrder
from strategies.round.events import Failed, Joined, Left, RoundDue, Sent
from strategies.round.replay import replay
from strategies.round.state import State
from strategies.round.step import step
from strategies.round.story import Moment, Story
from strategies.selection import POLICIES


def told(run: Recorded, name: str) -> list[Moment]:
    story = Story(name)
    assert replay(run.lines, story=story).difference is None
    return story.moments


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_node_worked_in_a_round_or_is_told_why_it_did_not(policy: str, mode: str) -> None:
    run = played(policy, mode=mode)
    for row, name in enumerate(run.state.fleet.names):
        moments = told(run, name)
        assert moments[0].what == f"joined, with {100 + row} examples"
        begun = {moment.round for moment in moments if moment.what.startswith(("given order", "not given work: "))}
        assert begun == set(range(1, 7))
        sent = [command.order for command in run.commands if isinstance(command, SendOrder) and command.row == row]
        assert [int(found[1]) for m in moments if (found := re.match(r"given order (\d+)", m.what))] == sent


COMPARED = (
    r"not given work: policy '\w+' chose (\d+) of (\d+) free nodes; "
    r"seconds as planned (\S+), theirs (\S+) to (\S+);"
)


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "network_aware"])
def test_who_was_free_and_not_chosen_by_another_policy_is_told_how_it_compares(policy: str) -> None:
    run = played(policy, mode="sync")
    told_in = [
        (moment.round, found)
        for name in run.state.fleet.names
        for moment in told(run, name)
        if (found := re.match(COMPARED, moment.what))
    ]
    assert told_in
    for round in range(1, 7):
        chosen = sum(isinstance(command, SendOrder) and command.round == round for command in run.commands)
        passed_over = [found for in_round, found in told_in if in_round == round]
        assert all((int(found[1]), int(found[2])) == (chosen, chosen + len(passed_over)) for found in passed_over)
        if policy == "latency":
            assert all(float(found[3]) >= float(found[5]) >= float(found[4]) for found in passed_over)


@pytest.mark.parametrize("policy", POLICIES)
def test_work_given_in_mid_round_is_told_with_its_cause(policy: str) -> None:
    causes = {}
    for mode in ("sync", "async"):
        run = played(policy, mode=mode)
        given = [m.what for name in run.state.fleet.names for m in told(run, name) if m.what.startswith("given order")]
        causes[mode] = [found for what in given if (found := re.search(r"; in mid-round: order (\d+) had ended", what))]
    assert causes["async"] and not causes["sync"]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_owed_is_told_where_the_policy_decides_by_it_alone(policy: str) -> None:
    run = played(policy, mode="async")
    said = [moment.what for name in run.state.fleet.names for moment in told(run, name)]
    assert any("owed" in what for what in said) is (run.state.rules.books == "debts")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_what_all_nodes_are_said_to_make_up_of_a_round_is_the_whole(mode: str) -> None:
    run = played(mode=mode)
    sums = dict.fromkeys(range(1, 7), 0.0)
    for name in run.state.fleet.names:
        for moment in told(run, name):
            if found := re.match(r"makes up (\S+) of the round", moment.what):
                sums[moment.round] += float(found[1])
    assert sums == pytest.approx(dict.fromkeys(sums, 1.0), abs=1e-3)
    assert sum(isinstance(command, CloseRound) for command in run.commands) == 6


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_parts_of_a_weight_are_positive_and_give_the_weight(mode: str) -> None:
    run = played(mode=mode)
    weights = [command.weight for command in run.commands if isinstance(command, AddUpdate)]
    parts = (
        r"order \d+ weighs (\S+): \(owed (\S+) \+ data share (\S+) \+ lift (\S+)\) x (\S+) for its link, "
        r"\d+ versions? old"
    )
    found = [
        re.fullmatch(parts, moment.what)
        for name in run.state.fleet.names
        for moment in told(run, name)
        if "weighs" in moment.what
    ]
    assert len(found) == len(weights)
    for match in found:
        assert match is not None
        weight, owed, share, lift, factor = map(float, match.groups())
        assert 0.1 < share < 0.15 and lift >= -1e-4 and 0.8 <= factor <= 1.25
        assert (owed + share + lift) * factor == pytest.approx(weight, rel=0.02)


def left(run: Recorded, row: int) -> None:
    run.tell(Left(9.0, (row,)))


def silent(run: Recorded, row: int) -> None:
    run.state.fleet.misses[row] = 2  # as two unanswered orders leave it
    run.state.fleet.rests_until_s[row] = 1234.5


def excluded(run: Recorded, row: int) -> None:
    run.state.fleet.excluded_until_s[row] = 1234.5


def unknown(run: Recorded, row: int) -> None:
    run.state.fleet.on_probation[row] = True


def ahead(run: Recorded, row: int) -> None:
    run.state.fleet.owed[row] = -10.0


def trained(run: Recorded, row: int) -> None:
    run.state.fleet.held[row] = run.state.versions.version


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (left, "not connected"),
        (silent, "silent 2 times in a row, so it rests until 1,234.5 s"),
        (excluded, "excluded until 1,234.5 s"),
        (unknown, "it has not said again who it is"),
        (ahead, "more than 20 shares ahead of its data"),
        (trained, "its update to version 2, still the latest, has counted"),
        (lambda run, row: None, "others came first: its priority is "),
    ],
)
def test_each_reason_for_being_left_out_is_told(cause: Callable[[Recorded, int], None], said: str) -> None:
    run = played(rounds=2, mode="sync", nodes=8, cohort=4)
    due = RoundDue(10.0, 3)
    chosen = {command.row for command in _again(run, due)}
    row = next(row for row in range(8) if row not in chosen)
    cause(run, row)
    story = Story(f"node-{row}")
    story.before(run.state, due)
    story.after(run.state, due, run.tell(due))
    (moment,) = story.moments
    assert (moment.round, moment.at_s) == (3, 10.0) and moment.what.startswith(f"not given work: {said}")


def _again(run: Recorded, due: RoundDue) -> list[SendOrder]:
    """Whom the round would begin with, asked of a copy."""
    copy = State.restored(run.state.rules, run.state.json())
    return [command for command in step(copy, due)[1] if isinstance(command, SendOrder)]


def test_a_node_at_work_and_one_that_failed_are_told_so() -> None:
    run = played(rounds=1)
    sent = [command for command in run.tell(RoundDue(9.0, 2)) if isinstance(command, SendOrder)]
    run.tell(Sent(9.0, tuple(order.order for order in sent), (4000,) * len(sent)))
    row = sent[0].row
    run.tell(Failed(9.5, sent[0].order, "no reply within 3 s"))
    run.tell(Joined(9.6, "node-late", 7))
    assert told(run, f"node-{row}")[-1].what == f"order {sent[0].order} refused: error reply: no reply within 3 s"
    assert [moment.what for moment in told(run, "node-late")] == ["joined, with 7 examples"]
    assert told(run, "nobody") == []
