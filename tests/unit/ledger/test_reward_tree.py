"""The sum tree of a round's rewards: what a proof alone guarantees, whoever built the tree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypergpu_fl.ledger.identity import checksum_address
from hypergpu_fl.ledger.merkle import EMPTY_ROOT
from hypergpu_fl.ledger.reward_tree import RewardTree, Sum, proven_total

SESSION = bytes(range(32))
wei = st.integers(1, 2**96 - 1)
places = st.one_of(st.integers(0, 2**160 - 1), st.integers(0, 63), st.integers(0, 63).map(lambda high: high << 150))
earnings = st.dictionaries(places.map(lambda n: checksum_address(n.to_bytes(20, "big"))), wei, min_size=1, max_size=40)


@given(earnings)
def test_every_proof_leads_to_the_root_and_to_the_sum_of_all(earned: dict[str, int]) -> None:
    tree = RewardTree(SESSION, earned)
    assert tree.top == Sum(tree.root, sum(earned.values()))
    for account, amount in earned.items():
        assert proven_total(SESSION, account, amount, tree.proof(account)) == tree.top


@given(earnings)
def test_the_root_does_not_depend_on_the_order_of_accounts(earned: dict[str, int]) -> None:
    assert RewardTree(SESSION, dict(reversed(earned.items()))).root == RewardTree(SESSION, earned).root


@given(earnings.filter(lambda earned: len(earned) > 1), st.data())
def test_a_sum_that_hides_a_part_of_the_tree_leads_to_another_root(earned: dict[str, int], data: st.DataObject) -> None:
    tree, account = RewardTree(SESSION, earned), data.draw(st.sampled_from(sorted(earned)))
    proof = tree.proof(account)
    at, hidden = data.draw(st.integers(0, len(proof) - 1)), data.draw(wei)
    lying = [sibling._replace(amount=sibling.amount + hidden * (i == at)) for i, sibling in enumerate(proof)]
    assert proven_total(SESSION, account, earned[account], lying).hash != tree.root


@given(earnings, st.data())
def test_no_proof_leads_another_account_or_amount_or_session_to_the_root(
    earned: dict[str, int], data: st.DataObject
) -> None:
    tree, account = RewardTree(SESSION, earned), data.draw(st.sampled_from(sorted(earned)))
    proof, amount = tree.proof(account), earned[account]
    other = checksum_address((int(account, 16) ^ 1 << data.draw(st.integers(0, 159))).to_bytes(20, "big"))
    assert proven_total(SESSION, other, amount, proof).hash != tree.root
    assert proven_total(SESSION, account, amount + 1, proof).hash != tree.root
    assert proven_total(bytes(32), account, amount, proof).hash != tree.root


def test_a_round_that_grants_nothing_has_the_empty_root_and_proves_nothing() -> None:
    tree = RewardTree(SESSION, {})
    assert tree.root == EMPTY_ROOT
    with pytest.raises(KeyError):
        tree.proof(checksum_address(bytes(20)))
