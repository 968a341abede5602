"""Carries outbox entries to the chain, one at a time and in order, and never makes training wait.

The next entry is signed when the one before is included, not when it is final. Before each signature the chain is asked
for its id, the contract's code, the session's coordinator and its head. An entry whose effect is on the chain already
is not sent again, whoever sent it, and a finalized history other than ours stops the commits. Signed bytes are sent
again and again until their nonce is used up; only then is the entry signed again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hypergpu_fl.chain.client import Client, Receipt, Tag
from hypergpu_fl.chain.errors import ForkAlarm, Misconfigured, Unavailable, Underpriced
from hypergpu_fl.chain.fees import Bid, first_bid, gas_limit, raised_bid
from hypergpu_fl.chain.outbox import Attempt, EntryState, Outbox, OutboxEntry
from hypergpu_fl.chain.progress import IntentProgress, check_chain_id, check_code, check_coordinator, progress
from hypergpu_fl.chain.signer import Signer, Transaction, created_address
from hypergpu_fl.errors import ChainError
from hypergpu_fl.keccak import keccak

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the sender looks and how long it waits, in seconds.

    Parameters
    ----------
    poll_s : float
        Time between two looks at a transaction under way; half a Monad block.
    bump_after_s : float
        Time without inclusion after which the fee is raised.
    lost_after_s : float
        Time from seeing a nonce used up to giving up on a receipt for it.
    retry_s : float
        Time before trying again what was refused or not answered.
    """

    poll_s: float = 0.15
    bump_after_s: float = 3.0
    lost_after_s: float = 15.0
    retry_s: float = 2.0


DEFAULT_PACE: Final = Pace()


class Sender:
    """One writer for one key on one chain; `step` does the next thing.

    Parameters
    ----------
    outboxes : Sequence[Outbox]
        What to send: first what earlier runs left, last this run's outbox.
    client : Client
        Access to the chain.
    signer : Signer
        Key of the outboxes' address.
    max_fee : int
        Most wei for each gas.
    pace : Pace
        Waiting times.
    clock : Callable[[], float]
        Monotonic seconds.
    """

    def __init__(
        self,
        outboxes: Sequence[Outbox],
        client: Client,
        signer: Signer,
        *,
        max_fee: int,
        pace: Pace = DEFAULT_PACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outboxes = outboxes
        self._client = client
        self._signer = signer
        self._max_fee = max_fee
        self._pace = pace
        self._clock = clock
        self._first_sent_at: dict[tuple[Outbox, int], float] = {}
        self._last_sent_at: dict[tuple[Outbox, int], float] = {}
        self._used_up_at: dict[tuple[Outbox, int], float] = {}
        self._odd_since: dict[tuple[Outbox, int], float] = {}  # what no honest chain shows for long
        self.problem: ChainError | None = None
        self.finalized_s: dict[int, float] = {}  # round -> seconds from first broadcast to finality, this run's

    def step(self) -> float | None:
        """Do the next thing; seconds until there may be more to do, None if all of this run is final."""
        try:
            pause = self._advance()
        except ChainError as error:
            self._report(error)
            if not isinstance(error, ForkAlarm):  # stay with the endpoint that shows the fork
                self._client.rotate()
            return self._pace.retry_s
        self._report(None)
        return pause

    def _report(self, problem: ChainError | None) -> None:
        """Log a problem when it changes, not on every try."""
        if problem is not None and str(problem) != str(self.problem):
            log.warning("outbox: %s; %s", problem.cause, problem.remedy)
        elif problem is None and self.problem is not None:
            log.info("outbox: sending again")
        self.problem = problem

    def _advance(self) -> float | None:
        unfinished = [(outbox, outbox.entries(unfinished=True)) for outbox in self._outboxes]
        if not unfinished[-1][1]:
            return None
        moved = False
        blocked: ChainError | None = None
        for outbox, entries in unfinished:
            try:
                moved |= self._finalize(outbox, [entry for entry in entries if entry.state is EntryState.INCLUDED])
            except ForkAlarm as error:
                blocked = error
        for outbox, entry in self._fronts(unfinished):
            try:
                moved |= self._push(outbox, entry)
            except (Unavailable, Underpriced):
                raise
            except ChainError as error:  # a fault of one run's entry need not stop another run's
                blocked = error
                if entry.state is not EntryState.PREPARED:
                    break
            else:
                break
        if blocked is not None and not moved:
            raise blocked
        return 0.0 if moved else self._pace.poll_s

    def _fronts(self, unfinished: Sequence[tuple[Outbox, list[OutboxEntry]]]) -> list[tuple[Outbox, OutboxEntry]]:
        """Entries that may be pushed, best first: the lowest signed nonce goes before any new signature."""
        fronts = []
        for outbox, entries in unfinished:
            waiting = [entry for entry in entries if entry.state is not EntryState.INCLUDED]
            if waiting:
                fronts.append((outbox, waiting[0]))
        signed = [front for front in fronts if front[1].state is not EntryState.PREPARED]
        return [min(signed, key=lambda front: front[1].attempts[-1].nonce)] if signed else fronts

    def _push(self, outbox: Outbox, entry: OutboxEntry) -> bool:
        """Bring an entry one state further; whether it moved."""
        if entry.state is EntryState.PREPARED:
            return self.sign(outbox, entry)
        if entry.state is EntryState.SIGNED or (outbox, entry.id) not in self._last_sent_at:
            return self._send(outbox, entry)
        return self._watch(outbox, entry)

    def sign(self, outbox: Outbox, entry: OutboxEntry) -> bool:
        """Check the chain, then sign a PREPARED entry and store its bytes; False if the chain lags behind."""
        intent = entry.intent
        check_chain_id(self._client, outbox.chain_id)
        if intent.purpose != "deploy":
            check_code(self._client, intent.contract)
        found = self._progress(outbox, entry, "latest")
        if found is IntentProgress.DONE:
            self._note_inclusion(outbox, entry)
            return True
        if found is IntentProgress.BEHIND:
            if self._odd(outbox, entry):
                raise Misconfigured(
                    f"the chain no longer shows what went before {_name(entry)}", "this RPC is behind; name another"
                )
            self._client.rotate()
            return False
        self._odd_since.pop((outbox, entry.id), None)
        if intent.purpose == "commit":
            check_coordinator(self._client, intent, self._signer.address)
        nonce = self.next_nonce()
        if intent.purpose == "deploy" and created_address(self._signer.address, nonce) != intent.contract:
            raise Misconfigured(
                f"nonce {nonce} no longer gives the contract the address {intent.contract}", "start a new run"
            )
        bid = first_bid(self._client.fees(), self._max_fee)
        if bid is None:
            raise self._too_dear()
        to = None if intent.purpose == "deploy" else intent.contract
        used = self._client.estimate_gas(self._signer.address, to, intent.data, intent.value)
        limit = gas_limit(used, creates=to is None)
        self._sign_and_store(outbox, entry, bid, nonce, limit)
        return True

    def next_nonce(self) -> int:
        """First nonce that neither the chain nor any outbox has used. The chain's count may lag behind ours."""
        return max(self._client.nonce(self._signer.address), *(outbox.highest_nonce() + 1 for outbox in self._outboxes))

    def _sign_and_store(self, outbox: Outbox, entry: OutboxEntry, bid: Bid, nonce: int, limit: int) -> None:
        intent = entry.intent
        needed, balance = limit * bid.max_fee + intent.value, self._client.balance(self._signer.address)
        if balance < needed:
            raise Misconfigured(
                f"account {self._signer.address} holds {balance} wei, {_name(entry)} may cost {needed}",
                "send it funds; nothing was sent, and sending goes on by itself",
            )
        to = None if intent.purpose == "deploy" else intent.contract
        raw = self._signer.sign(
            Transaction(outbox.chain_id, nonce, to, intent.data, intent.value, limit, bid.max_fee, bid.priority_fee)
        )
        outbox.signed(entry, Attempt(nonce, raw, keccak(raw), limit, bid.max_fee, bid.priority_fee))

    def _send(self, outbox: Outbox, entry: OutboxEntry) -> bool:
        try:
            self._client.send_raw(entry.attempts[-1].raw)
        except Underpriced:
            if not self._raise_bid(outbox, entry):
                raise self._too_dear() from None
            return True
        key = (outbox, entry.id)
        self._last_sent_at[key] = self._clock()
        self._first_sent_at.setdefault(key, self._last_sent_at[key])
        outbox.sent(entry)
        return True

    def _watch(self, outbox: Outbox, entry: OutboxEntry) -> bool:
        """Look for a receipt; if there is none for too long, raise the fee, send again, or give up on the nonce."""
        key, attempt, now = (outbox, entry.id), entry.attempts[-1], self._clock()
        found = self._receipt(entry)
        if found is not None:
            if found[1].succeeded:
                self._note_inclusion(outbox, entry)
            else:  # the nonce is used up; sign again with a new estimate, if the entry is still due
                log.warning("outbox: %s was included but reverted", _name(entry))
                self._start_over(outbox, entry)
            return True
        count = self._client.nonce(self._signer.address)
        if count > attempt.nonce:
            return self._without_receipt(outbox, entry, now)
        self._used_up_at.pop(key, None)
        # If nothing leads to a nonce, an endpoint made it up; a count below what was included is only outdated.
        if max(box.highest_nonce(included=True) for box in self._outboxes) < count < attempt.nonce:
            if self._odd(outbox, entry):
                log.warning("outbox: nothing leads to nonce %d of %s: signing it anew", attempt.nonce, _name(entry))
                self._start_over(outbox, entry)
                return True
        else:
            self._odd_since.pop(key, None)
        if now - self._last_sent_at[key] < self._pace.bump_after_s:
            return False
        # At the cap the same bytes are sent again, in case the pool dropped them, and through another endpoint if there
        # is one, in case this one does not pass them on.
        self._client.rotate()
        return self._raise_bid(outbox, entry) or self._send(outbox, entry)

    def _odd(self, outbox: Outbox, entry: OutboxEntry) -> bool:
        """Whether something odd about an entry outlasts what an old block explains; ask only while it is odd."""
        since = self._odd_since.setdefault((outbox, entry.id), self._clock())
        return self._clock() - since >= self._pace.lost_after_s

    def _raise_bid(self, outbox: Outbox, entry: OutboxEntry) -> bool:
        """Sign the same nonce at a higher fee; False if the cap forbids it."""
        attempt = entry.attempts[-1]
        bid = raised_bid(Bid(attempt.max_fee, attempt.priority_fee), self._client.fees(), self._max_fee)
        if bid is None:
            return False
        self._sign_and_store(outbox, entry, bid, attempt.nonce, attempt.gas_limit)
        return True

    def _without_receipt(self, outbox: Outbox, entry: OutboxEntry, now: float) -> bool:
        """The nonce is used up, but no endpoint knows a receipt of ours: ask all endpoints, then the contract."""
        if now - self._used_up_at.setdefault((outbox, entry.id), now) < self._pace.lost_after_s:
            self._client.rotate()
            return False
        found = self._progress(outbox, entry, "finalized")
        if found is IntentProgress.DONE:
            self._note_inclusion(outbox, entry)
        elif found is IntentProgress.DUE:
            log.warning("outbox: the nonce of %s was used by another transaction", _name(entry))
            self._start_over(outbox, entry)
        return found is not IntentProgress.BEHIND

    def _start_over(self, outbox: Outbox, entry: OutboxEntry) -> None:
        for times in (self._first_sent_at, self._last_sent_at, self._used_up_at, self._odd_since):
            times.pop((outbox, entry.id), None)
        outbox.prepared_again(entry)

    def _note_inclusion(self, outbox: Outbox, entry: OutboxEntry) -> None:
        """Note where the entry was included, or only that it was: its effect may be there without a known receipt."""
        self._odd_since.pop((outbox, entry.id), None)
        found = self._receipt(entry)
        if found is not None and found[1].succeeded:
            attempt, receipt = found
            outbox.included(entry, block=receipt.block, gas_used=receipt.gas_used, tx_hash=attempt.hash)
        else:
            outbox.included(entry, block=None, gas_used=None, tx_hash=None)

    def _receipt(self, entry: OutboxEntry) -> tuple[Attempt, Receipt] | None:
        """Receipt of whichever attempt succeeded; of the latest one if it failed."""
        receipts = [(attempt, self._client.receipt(attempt.hash)) for attempt in reversed(entry.attempts)]
        for attempt, receipt in receipts:
            if receipt is not None and receipt.succeeded:
                return attempt, receipt
        current = entry.attempts[-1].nonce if entry.attempts else None
        for attempt, receipt in receipts:
            if receipt is not None and attempt.nonce == current:
                return attempt, receipt
        return None

    def _finalize(self, outbox: Outbox, included: Sequence[OutboxEntry]) -> bool:
        """Finalize what can no longer be undone, and send again what was undone; whether anything became final."""
        if not included:
            return False
        height, moved = self._client.block_number("finalized"), False
        for entry in included:
            if entry.block is not None and entry.block > height:
                if self._odd(outbox, entry):
                    self._look_again(outbox, entry)
                break
            self._odd_since.pop((outbox, entry.id), None)
            if self._progress(outbox, entry, "finalized") is not IntentProgress.DONE:
                if entry.block is not None and self._receipt(entry) is None:
                    log.warning("outbox: the inclusion of %s was undone", _name(entry))
                    self._last_sent_at.pop((outbox, entry.id), None)
                    outbox.sent(entry)
                break
            outbox.finalized(entry)
            moved = True
            sent_at = self._first_sent_at.get((outbox, entry.id))
            if sent_at is not None and entry.intent.purpose == "commit" and outbox is self._outboxes[-1]:
                self.finalized_s[entry.intent.round] = self._clock() - sent_at
        return moved

    def _look_again(self, outbox: Outbox, entry: OutboxEntry) -> None:
        """Ask again where an entry was included, because its block does not become final and may be made up."""
        self._odd_since.pop((outbox, entry.id), None)
        self._client.rotate()
        found = self._receipt(entry)
        if found is None or not found[1].succeeded:
            self._last_sent_at.pop((outbox, entry.id), None)
            outbox.sent(entry)
        elif found[1].block != entry.block:
            self._note_inclusion(outbox, entry)

    def _progress(self, outbox: Outbox, entry: OutboxEntry, tag: Tag) -> IntentProgress:
        """How far the chain is with an entry; a foreign history in an unfinalized block counts as BEHIND.

        Raises
        ------
        ForkAlarm
            If a finalized block shows a foreign history.
        """

        def head_after(round: int) -> bytes | None:
            return outbox.head_after(entry.intent.session, round)

        found = progress(self._client, entry.intent, tag, head_after)
        if found is IntentProgress.FOREIGN and tag == "latest":
            found = progress(self._client, entry.intent, "finalized", head_after)
            found = found if found is IntentProgress.FOREIGN else IntentProgress.BEHIND
        if found is IntentProgress.FOREIGN:
            raise ForkAlarm(
                f"the chain holds another history of the session than ours, at or before round {entry.intent.round}",
                "someone else commits with the coordinator's key, or the run database is old; commits have stopped",
            )
        return found

    def _too_dear(self) -> Misconfigured:
        return Misconfigured(
            f"gas costs more than the cap of {self._max_fee / 10**9:g} gwei", "wait, or raise blockchain.max_fee_gwei"
        )


def _name(entry: OutboxEntry) -> str:
    intent = entry.intent
    return f"the commit of round {intent.round}" if intent.purpose == "commit" else f"the {intent.purpose} transaction"
