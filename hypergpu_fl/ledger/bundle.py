"""`ledger.json`: everything a stranger needs to check a run without trusting whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from hypergpu_fl.errors import LedgerError
from hypergpu_fl.files import path_meant, write_whole
from hypergpu_fl.keccak import address_word, keccak
from hypergpu_fl.ledger.contribution import (
    SealedContribution,
    hash_blob,
    word,
)
from hypergpu_fl.ledger.fields import U32, U64, Address, Amount, Data, Hash, Record, Siblings, Signature, Signed, parse
from hypergpu_fl.ledger.pricing import Pricing
from hypergpu_fl.ledger.rewards import SHARES, Pay, summed
from hypergpu_fl.ledger.sealing import SealedRound

BUNDLE: Final = "ledger.json"  # in a run's folder
FORMAT: Final = "hypergpu-ledger-4"


class SessionRecord(Record):
    """Where and by whom the rounds were committed, and what a round pays out.

    ``budget`` is in wei a round; ``base_pay`` is the part of it that is paid by work, in parts per million.
    """

    id: Hash
    salt: Hash
    chain_id: U64
    contract: Address
    coordinator: Address
    budget: Amount
    base_pay: Annotated[U32, Field(le=SHARES)]
    simulated_keys: bool

    @property
    def pay(self) -> Pay:
        """What a round has to give."""
        return Pay(self.budget, self.base_pay)

    def expected_id(self) -> bytes:
        """Compute the contract's ``sessionId``: ``keccak(abi.encode(chainid, contract, coordinator, salt))``."""
        return session_id(self.chain_id, self.contract, self.coordinator, self.salt)


class ContributionRecord(Record):
    """One leaf with its fields, proof and signature."""

    index: U32
    round: U64
    node: Address
    base_model: Hash
    update_hash: Hash
    examples: U64
    metrics_hash: Hash
    weight: U64
    score: Signed
    reward: Amount
    signature: Signature
    leaf: Hash
    proof: Siblings
    duplicate_of: Address | Literal[""]

    def sealed(self, session: bytes) -> SealedContribution:
        """Make the contribution that these fields describe."""
        return SealedContribution.of_fields(session, self)


class RefusalRecord(Record):
    """A reply that did not count; the coordinator's word."""

    node: str
    reason: str
    detail: str


class TransactionRecord(Record):
    """A signed transaction and what became of it; state, block and gas used are the coordinator's word."""

    purpose: Literal["deploy", "open", "fund", "commit", "propose", "accept"]
    hash: Hash
    raw: Data
    state: Literal["SIGNED", "SENT", "INCLUDED", "FINALIZED"]
    block: U64 | None
    gas_used: U64 | None
    gas_limit: U64


class RoundRecord(Record):
    """One sealed round.

    `commit` is None while its transaction is not signed, `log_head` if the run kept no log, `pricing` if the scores'
    origin is not recorded.
    """

    round: U64
    model: Hash
    root: Hash
    rewards_root: Hash
    owed: Amount
    head: Hash
    log_head: Hash | None
    pricing: Pricing | None
    contributions: list[ContributionRecord]
    refused: list[RefusalRecord]
    commit: TransactionRecord | None

    @property
    def earned(self) -> dict[str, int]:
        """What the round granted to each account, in wei; accounts that earned nothing are left out."""
        return summed((entry.node, entry.reward) for entry in self.contributions)


class BooksSeal(Record):
    """The coordinator's signature over the whole file; ``ended`` says whether the run had ended by then.

    ``rounds`` and ``head`` say how far the books went when they were signed; ``document`` is `Bundle.document`.
    """

    ended: bool
    rounds: U64
    head: Hash
    document: Hash
    signature: Signature


class Bundle(Record):
    """The whole file; `seal` is None until the coordinator signs it as a whole."""

    format: Literal["hypergpu-ledger-4"]
    session: SessionRecord
    transactions: list[TransactionRecord]
    rounds: list[RoundRecord]
    seal: BooksSeal | None

    @property
    def head(self) -> bytes:
        """Head after the last round; the session id if there is none."""
        return self.rounds[-1].head if self.rounds else self.session.id

    def document(self) -> bytes:
        """SHA-256 of the file without its seal, as JSON without blanks and in the order of the fields."""
        return hash_blob(self.model_dump_json(exclude={"seal"}).encode())


def session_id(chain_id: int, contract: str, coordinator: str, salt: bytes) -> bytes:
    """Id of the session that `coordinator` opens with `salt`, as the contract computes it."""
    return keccak(word(chain_id) + address_word(contract) + address_word(coordinator) + salt)


def round_record(sealed: SealedRound, commit: TransactionRecord | None) -> RoundRecord:
    """Describe a sealed round as the bundle holds it, with the proof of every leaf."""
    tree = sealed.tree
    entries = [
        ContributionRecord(**contribution.fields(), leaf=contribution.leaf(), proof=tree.proof(i))
        for i, contribution in enumerate(sealed.contributions)
    ]
    return RoundRecord(
        round=sealed.seal.round,
        model=sealed.seal.model,
        root=sealed.root,
        rewards_root=sealed.rewards_root,
        owed=sealed.owed,
        head=sealed.head,
        log_head=sealed.seal.log_head,
        pricing=sealed.seal.pricing,
        contributions=entries,
        refused=[RefusalRecord(node=r.node, reason=r.reason, detail=r.detail) for r in sealed.seal.refused],
        commit=commit,
    )


def write_bundle(path: Path, bundle: Bundle) -> None:
    """Write the bundle atomically: a reader sees the old file or the new one."""
    write_whole(path, bundle.model_dump_json(indent=1) + "\n")


def read_bundle(path: Path) -> Bundle:
    """Read a bundle from anyone.

    Raises
    ------
    LedgerError
        If the file cannot be read.
    VerificationError
        If it does not have a bundle's shape; names the round where that is known.
    """
    return parse(Bundle, read_file(path), "the ledger")


def read_file(path: Path) -> bytes:
    """Bytes of a file; LedgerError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        run = f"write it with `hypergpu ledger export {path.resolve().parent.name}`"
        remedy = run if path.name == BUNDLE else path_meant(path) or "name a file that is there"
        raise LedgerError(f"there is no {path}", remedy) from None
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror}", "let this user read it") from None
