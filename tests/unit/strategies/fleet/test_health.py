"""A node's health: who is left alone, for how long, and how it comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from played_rounds import reading
from strategy_grid import fleet_of

from strategies.fleet.health import (
    EXCLUDED_AFTER,
    EXCLUSION_S,
    LONGEST_EXCLUSION_S,
    MOST_DISTRUST,
    answered,
    exploded,
    failed,
    let_out,
    rested,
    silent,
    succeeded,
    wasted,
)
from strategies.lineup import rules
from strategies.planning import Compression
from strategies.round.commands import Command, Exclude, Readmit, SendOrder
from strategies.round.events import Answered, Ended, Event, Failed, Joined, Published, RoundDue
from strategies.round.state import State
from strategies.round.step import step
from strategies.settings import Settings


@given(st.lists(st.booleans(), max_size=60))
def test_a_node_is_excluded_exactly_after_three_failures_in_a_row(outcomes: list[bool]) -> None:
    fleet, in_a_row = fleet_of([10]), 0
    for at_s, good in enumerate(outcomes):
        if good:
            succeeded(fleet, 0)
        else:
            failed(fleet, 0, at_s=float(at_s))
        in_a_row = 0 if good else in_a_row + 1
        assert fleet.excluded[0] == (in_a_row >= EXCLUDED_AFTER)
        assert bool(fleet.present[0]) == (not fleet.excluded[0])


@pytest.mark.parametrize("every", [1, 2, 5, 10, 11, 12, 30])
def test_a_node_is_excluded_if_more_than_one_of_eleven_updates_explodes_the_model(every: int) -> None:
    fleet, at = fleet_of([10]), []
    for number in range(1, 400):
        if number % every:
            succeeded(fleet, 0)
        elif exploded(fleet, 0, at_s=0.0) is not None:
            at.append(number // every)
            break
    assert bool(at) == (every < 11)
    assert not at or at[0] >= EXCLUDED_AFTER and (at[0] == EXCLUDED_AFTER or every > 5)


@pytest.mark.parametrize("every", [1, 2, 3, 4, 10])
def test_a_node_is_excluded_if_more_than_one_of_three_replies_is_refused_for_cause(every: int) -> None:
    fleet, refused = fleet_of([10]), 0
    for number in range(1, 1000):
        if number % every:
            succeeded(fleet, 0)
            continue
        refused += 1
        if wasted(fleet, 0, at_s=0.0) is not None:
            break
    assert fleet.excluded[0] == (every < 3)
    assert refused == {1: EXCLUDED_AFTER, 2: 20}.get(every, 999 // every)


def test_a_node_that_was_mended_is_trusted_again_and_one_that_was_not_is_excluded_for_longer() -> None:
    fleet, lengths = fleet_of([10]), []
    for _ in range(5):
        while not fleet.excluded[0]:
            exploded(fleet, 0, at_s=0.0)
        lengths.append(fleet.excluded_until_s[0])
        let_out(fleet, at_s=lengths[-1])
        succeeded(fleet, 0)  # one sound update in between does not start it anew
    assert lengths == [EXCLUSION_S * 2**n for n in range(5)]
    for _ in range(MOST_DISTRUST):
        succeeded(fleet, 0)
    assert not fleet.distrust[0] and not fleet.exclusions[0]
    assert exploded(fleet, 0, at_s=0.0) is None


def test_distrust_excludes_nobody_for_a_silence() -> None:
    fleet = fleet_of([10])
    for _ in range(EXCLUDED_AFTER):
        until_s = exploded(fleet, 0, at_s=0.0)
    assert until_s is not None and let_out(fleet, at_s=until_s).size
    succeeded(fleet, 0)
    assert [failed(fleet, 0, at_s=until_s) for _ in range(EXCLUDED_AFTER - 1)] == [None, None]
    assert exploded(fleet, 0, at_s=until_s) == until_s + 2 * EXCLUSION_S


def test_exclusions_double_up_to_an_hour_until_an_update_counts() -> None:
    fleet, lengths = fleet_of([10]), []
    for _ in range(8):
        while not fleet.excluded[0]:
            failed(fleet, 0, at_s=0.0)
        lengths.append(fleet.excluded_until_s[0])
        assert let_out(fleet, at_s=lengths[-1] - 1).size == 0
        assert let_out(fleet, at_s=lengths[-1]).tolist() == [0]
        assert fleet.on_probation[0] and not fleet.present[0]
    assert lengths == [min(EXCLUSION_S * 2**n, LONGEST_EXCLUSION_S) for n in range(8)]
    succeeded(fleet, 0)
    assert fleet.exclusions[0] == 0


def test_however_often_a_node_was_excluded_it_is_for_an_hour_at_most() -> None:
    fleet = fleet_of([10])
    for _ in range(1100):  # 2.0 ** 1024 overflows
        while not fleet.excluded[0]:
            failed(fleet, 0, at_s=0.0)
        assert fleet.excluded_until_s[0] <= LONGEST_EXCLUSION_S
        let_out(fleet, at_s=LONGEST_EXCLUSION_S)
    assert fleet.exclusions[0] == 1100


@pytest.mark.parametrize("round_s", [0.003, 7200.0])
def test_after_each_silence_in_a_row_a_node_rests_twice_as_long_up_to_32_rounds_until_it_answers(
    round_s: float,
) -> None:
    fleet, lengths = fleet_of([10]), []
    for _ in range(1100):  # 2.0 ** 1024 overflows
        silent(fleet, 0, at_s=100.0, round=1, round_s=round_s)
        until_s = float(fleet.rests_until_s[0])
        rested(fleet, at_s=until_s - 0.1 * round_s)
        assert fleet.resting[0]
        rested(fleet, at_s=until_s)
        assert not fleet.resting[0]
        lengths.append((until_s - 100.0) / round_s)
    assert lengths == pytest.approx([1, 2, 4, 8, 16] + [32] * 1095)
    silent(fleet, 0, at_s=100.0, round=1, round_s=round_s)
    answered(fleet, 0)
    assert not fleet.resting[0]
    silent(fleet, 0, at_s=100.0, round=1, round_s=round_s)
    assert fleet.rests_until_s[0] == pytest.approx(100.0 + round_s)


def test_a_silent_node_rests_by_the_last_rounds_length_and_before_that_by_what_the_open_one_took() -> None:
    levels = [Compression("raw", 1.0)]
    chosen = Settings(1, mode="sync", deadline_s=40.0, exclude_failing=False)
    state = State(rules("network_aware", chosen, model_values=10, levels=levels))
    step(state, Published(0.0, "00" * 32, 1.0, ()))
    for name in ("node-0", "node-1"):
        step(state, Joined(0.0, name, 10))

    def begun(at_s: float, round: int) -> SendOrder:
        (order,) = [said for said in step(state, RoundDue(at_s, round))[1] if isinstance(said, SendOrder)]
        return order

    order = begun(10.0, 1)
    step(state, Failed(15.0, order.order, "gone"))
    assert state.fleet.rests_until_s[order.row] == 15.0 + 5.0  # not by the 40 s that the round was given
    step(state, Ended(16.0))  # nothing counted, so it says nothing of how long rounds last
    assert state.usual_round_s(16.0) == 0.0
    other = begun(18.0, 2)
    assert other.row != order.row
    step(state, Answered(24.0, other.order, reading(other.order)))
    step(state, Ended(24.0))
    step(state, Published(24.5, "01" * 32, 1.0, ()))
    assert state.usual_round_s(24.5) == 6.0
    third = begun(30.0, 3)
    step(state, Failed(31.0, third.order, "gone"))
    assert state.fleet.rests_until_s[third.row] == 31.0 + 6.0 * 2 ** (third.row == order.row)
    step(state, Ended(31.0))
    assert begun(32.0, 4).row != third.row


def test_a_node_that_fails_again_and_again_is_given_nothing_until_it_has_said_who_it_is() -> None:
    state = State(rules("random", Settings(1, mode="sync"), model_values=10, levels=[Compression("raw", 1.0)]))
    told: list[Command] = []

    def tell(event: Event) -> list[Command]:
        commands = step(state, event)[1]
        told.extend(commands)
        return commands

    tell(Published(0.0, "00" * 32, 1.0, ()))
    tell(Joined(0.0, "node-0", 10))
    for round in range(1, EXCLUDED_AFTER + 1):
        (order,) = [command.order for command in tell(RoundDue(10.0 * round, round)) if isinstance(command, SendOrder)]
        tell(Failed(10.0 * round + 5, order, "gone"))
        tell(Ended(10.0 * round + 5))
    assert [command for command in told if isinstance(command, Exclude)] == [Exclude(0, 35.0 + EXCLUSION_S)]
    for round, at_s in ((4, 40.0), (5, 35.0 + EXCLUSION_S)):
        assert not any(isinstance(command, SendOrder) for command in tell(RoundDue(at_s, round)))
        assert not any(isinstance(command, Readmit) for command in told)
        tell(Ended(at_s))
    assert told[-1] == Readmit(0) and not state.fleet.present.any()
    tell(Joined(200.0, "node-0", 10))
    assert any(isinstance(command, SendOrder) for command in tell(RoundDue(200.0, 6)))
