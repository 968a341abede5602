"""Money follows what was brought so far: laws of a round's rewards and of what they leave for the next."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.ledger.rewards import SHARES, Pay, RewardDistribution, Scored

ACCOUNTS = {letter: "0x" + str(i) * 40 for i, letter in enumerate("abcd")}
entries = st.lists(
    st.builds(Scored, st.sampled_from(list(ACCOUNTS.values())), st.integers(-(2**80), 2**80), st.integers(0, 2**40)),
    max_size=8,
)
pays = st.builds(Pay, st.integers(0, 2**100), st.integers(0, SHARES))


def run(rounds: Sequence[Sequence[Scored]], pay: Pay) -> list[RewardDistribution]:
    history = [RewardDistribution(bytes(32), {})]
    for entries in rounds:
        before = history[-1]
        history.append(before.after(entries, before.rewards(entries, pay), pay))
    return history


def scored(**scores: int) -> list[Scored]:
    return [Scored(ACCOUNTS[letter], score) for letter, score in scores.items()]


@given(st.lists(entries, max_size=6), pays)
def test_what_was_paid_and_what_is_left_are_the_budgets_so_far_and_nobody_loses(
    rounds: list[list[Scored]], pay: Pay
) -> None:
    history = run(rounds, pay)
    for round, (before, after) in enumerate(zip(history, history[1:], strict=False), start=1):
        assert after.owed + after.unspent == round * pay.budget and after.unspent >= 0
        assert all(after.cumulative.get(account, 0) >= earned for account, earned in before.cumulative.items())


@given(entries.filter(len), st.integers(0, 2**100))
def test_a_first_round_is_shared_by_what_each_brought(entries: list[Scored], budget: int) -> None:
    nobody = RewardDistribution(bytes(32), {})
    rewards = nobody.rewards(entries, Pay(budget))
    brought: dict[str, int] = {}
    for entry in entries:
        brought[entry.account] = brought.get(entry.account, 0) + entry.score
    total = sum(value for value in brought.values() if value > 0)
    earned = nobody.after(entries, rewards, Pay(budget)).cumulative
    for account, value in brought.items():
        assert earned.get(account, 0) == (budget * max(0, value) // total if total else 0)


def test_a_bad_round_is_set_off_against_good_ones() -> None:
    _, first, second = run([scored(a=100, b=100), scored(a=-50, b=0)], Pay(1000))
    earned = {letter: second.cumulative[ACCOUNTS[letter]] - first.cumulative[ACCOUNTS[letter]] for letter in "ab"}
    assert earned == {"a": 1000 * 40 // 130, "b": 1000 * 90 // 130}


def test_a_budget_that_nobody_earned_is_paid_by_the_next_round_that_brings_something() -> None:
    history = run([scored(a=-1, b=-5), [], scored(a=10, b=0)], Pay(1000))
    assert [after.unspent for after in history] == [0, 1000, 2000, 0]


def test_who_brought_next_to_nothing_does_not_take_a_round_by_being_alone_in_it() -> None:
    history = run([scored(a=1000, b=1000, c=0), scored(c=1)], Pay(10**6))
    assert history[-1].cumulative[ACCOUNTS["c"]] <= 10**6 / 500
    assert history[-1].unspent > 0.99 * 10**6


def test_work_long_ago_is_not_paid_for_ever() -> None:
    history = run([scored(a=10**9), *([scored(a=0, b=10**6)] * 60)], Pay(1000))
    before, after = history[-2].cumulative, history[-1].cumulative
    earned = {letter: after[ACCOUNTS[letter]] - before[ACCOUNTS[letter]] for letter in "ab"}
    assert earned["b"] > 4 * earned["a"]


@given(st.integers(1, SHARES), st.integers(1, 2**60))
def test_base_pay_goes_by_work_whatever_it_brought(base: int, budget: int) -> None:
    entries = [Scored(ACCOUNTS["a"], -5, work=3), Scored(ACCOUNTS["b"], -7, work=1)]
    rewards = RewardDistribution(bytes(32), {}).rewards(entries, Pay(budget, base))
    assert rewards == [budget * base // SHARES * work // 4 for work in (3, 1)]


@pytest.mark.parametrize("account", ["a", "b"])
def test_an_account_with_two_contributions_is_paid_once_on_its_first(account: str) -> None:
    entries = [Scored(ACCOUNTS["a"], 5), Scored(ACCOUNTS["b"], 5), Scored(ACCOUNTS[account], 10)]
    rewards = RewardDistribution(bytes(32), {}).rewards(entries, Pay(1000))
    assert rewards[2] == 0 and sum(rewards) == 1000
    assert rewards["ab".index(account)] == 750
