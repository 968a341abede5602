"""Offline verification: recompute leaves, signatures, roots, rewards and heads from a bundle alone.

This proves that the history is one chain of rounds that ends in the given head, that every contribution was signed by
its node and starts from a model that the history sealed, and that rewards follow from the scores. It cannot prove that
the scores are fair: they are the coordinator's word. `hypergpu_fl.settlement` checks who signed the history, and
whether the chain holds the same head.
"""

from __future__ import annotations

from hypergpu_fl.errors import LedgerError, VerificationError
from hypergpu_fl.ledger.bundle import Bundle, ContributionRecord, RoundRecord
from hypergpu_fl.ledger.identity import recover
from hypergpu_fl.ledger.merkle import proven_root
from hypergpu_fl.ledger.reward_tree import RewardTree
from hypergpu_fl.ledger.rewards import Pay, RewardDistribution
from hypergpu_fl.ledger.sealing import next_head, paid_entries, round_tree
from strategies.prose import amount

_REMEDY = "the file was altered, or its writer is dishonest; take it from its source again and compare with the chain"


class _Differs(Exception):
    """What differs in the round at hand."""


def verify_bundle(bundle: Bundle) -> bytes:
    """Recompute the whole bundle.

    Returns
    -------
    bytes
        Head after the last round; the session id if there is none.

    Raises
    ------
    VerificationError
        At the first difference; names the round.
    """
    session = bundle.session
    if session.id != session.expected_id():
        raise VerificationError("session id is not the hash of chain, contract, coordinator and salt", _REMEDY)
    head = session.id
    rewards = RewardDistribution(session.id, {})
    counted: set[tuple[int, str]] = set()
    seen: set[str] = set()  # nodes of contributions so far
    models = SealedModels()
    for position, record in enumerate(bundle.rounds, start=1):
        try:
            if record.round != position:
                raise _Differs(f"found round {record.round} in its place")
            rewards = _verify_round(record, session.id, session.pay, rewards, counted, seen)
            models.check(record)
            head = next_head(
                head,
                round=record.round,
                root=record.root,
                model=record.model,
                rewards_root=record.rewards_root,
                owed=record.owed,
            )
            if head != record.head:
                raise _Differs("head differs from the chained hash of the rounds so far")
        except _Differs as difference:
            raise VerificationError(f"round {position}: {difference}", _REMEDY) from None
    return head


class SealedModels:
    """Which models a contribution may start from: those that earlier rounds sealed, and the initial one.

    No round seals the initial model. It is the one that the contributions made for round 1 start from, so all of them
    must name the same.
    """

    def __init__(self) -> None:
        self._after: dict[bytes, int] = {}  # model -> first round that sealed it
        self._initial: bytes | None = None

    def check(self, record: RoundRecord) -> None:
        """Check a round's contributions, then add the model that it sealed. Rounds must come in order."""
        for entry in record.contributions:
            if entry.round == 1 and self._initial is None:
                self._initial = entry.base_model
            if entry.base_model == self._initial:
                continue
            if self._after.get(entry.base_model, entry.round) >= entry.round:
                raise _Differs(
                    f"contribution {entry.index} of {entry.node} starts from a model that no round before "
                    f"{entry.round} sealed"
                )
        self._after.setdefault(record.model, record.round)


def _verify_round(
    record: RoundRecord,
    session: bytes,
    pay: Pay,
    before: RewardDistribution,
    counted: set[tuple[int, str]],
    seen: set[str],
) -> RewardDistribution:
    seen.update(entry.node for entry in record.contributions)  # near copies of one round name each other
    for index, entry in enumerate(record.contributions):
        _verify_contribution(entry, index, session, record.root)
        if not 1 <= entry.round <= record.round or (entry.round, entry.node) in counted:
            raise _Differs(
                f"contribution {index} of {entry.node} for round {entry.round} is counted twice or too early"
            )
        counted.add((entry.round, entry.node))
        if entry.duplicate_of and (entry.duplicate_of == entry.node or entry.duplicate_of not in seen):
            raise _Differs(f"contribution {index} nearly equals that of {entry.duplicate_of}, who sent nothing by then")
    leaves, pricing = [entry.leaf for entry in record.contributions], record.pricing
    if pricing is not None and len(pricing.contributions) != len(leaves):
        raise _Differs(
            f"its pricing is of {amount(len(pricing.contributions), 'contribution')}, there are {len(leaves)}"
        )
    tree = round_tree(leaves, session=session, round=record.round, log_head=record.log_head, pricing=pricing)
    if tree.root != record.root:
        raise _Differs("root differs from the tree of its leaves")
    entries = paid_entries([(entry.node, entry.score) for entry in record.contributions], pricing)
    rewards = before.rewards(entries, pay)
    if rewards != [entry.reward for entry in record.contributions]:
        raise _Differs("rewards differ from what the scores so far come to")
    after = before.after(entries, rewards, pay)
    if RewardTree(session, record.earned).root != record.rewards_root:
        raise _Differs("rewards root differs from the tree of the round's rewards")
    if after.owed != record.owed:
        raise _Differs(f"owed is {record.owed} wei, the rewards so far add up to {after.owed}")
    return after


def _verify_contribution(entry: ContributionRecord, index: int, session: bytes, root: bytes) -> None:
    sealed = entry.sealed(session)
    if entry.index != index:
        raise _Differs(f"contribution {index} calls itself number {entry.index}")
    if sealed.leaf() != entry.leaf:
        raise _Differs(f"contribution {index} of {entry.node}: leaf differs from the hash of its fields")
    if proven_root(entry.leaf, entry.proof) != root:
        raise _Differs(f"contribution {index} of {entry.node}: proof does not lead to the round's root")
    try:
        signer = recover(sealed.credited.contribution, entry.signature)
    except LedgerError as error:
        raise _Differs(f"contribution {index} of {entry.node}: {error.cause}") from None
    if signer != entry.node:
        raise _Differs(f"contribution {index}: signed by {signer}, not by {entry.node}")
