"""Carries outbox entries to the chain, one at a time and in order, and never makes training wait.

The next entry is signed when the one before is included, not when it is final. Before each signature the chain is
asked for its id, the contract's code, the session's coordinator and its head: an entry whose effect is there already
is not sent again, whoever sent it; a finalized history other than ours stops everything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from eth_hash.auto import keccak
from sqlalchemy import Engine

from hypergpu_fl.chain.client import Client, Receipt, Tag
from hypergpu_fl.chain.errors import ForkAlarm, Misconfigured, Unavailable
from hypergpu_fl.chain.fees import Bid, first_bid, gas_limit, raised_bid
from hypergpu_fl.chain.outbox import Attempt, Entry, Outbox, State
from hypergpu_fl.chain.progress import Progress, check_chain_id, check_code, check_coordinator, progress
from hypergpu_fl.chain.signer import Signer, Transaction
from hypergpu_fl.errors import ChainError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the sender looks and how long it waits, in seconds.

    Parameters
    ----------
    poll_s : float
        Between two looks at a transaction under way; half a Monad block.
    bump_after_s : float
        Without inclusion until the fee is raised.
    lost_after_s : float
        Between seeing a nonce used up and giving up on a receipt for it.
    retry_s : float
        Before trying again what was refused or not answered.
    """

    poll_s: float = 0.15
    bump_after_s: float = 3.0
    lost_after_s: float = 15.0
    retry_s: float = 2.0


class Sender:
    """One writer for one key on one chain.

    Parameters
    ----------
    engine : Engine
        Database that holds the outbox.
    outbox : Outbox
        What to send.
    client : Callable[[], Client]
        Opens access to the chain; called once, on the sender's own thread.
    signer : Signer
        Key of the outbox's address.
    max_fee : int
        Wei a gas that is never exceeded.
    pace : Pace
        Waiting times.
    clock : Callable[[], float]
        Monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine,
        outbox: Outbox,
        client: Callable[[], Client],
        signer: Signer,
        *,
        max_fee: int,
        pace: Pace = Pace(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._open_client = client
        self._client: Client | None = None
        self._signer = signer
        self._max_fee = max_fee
        self._pace = pace
        self._clock = clock
        self._sent_at: dict[int, float] = {}  # entry -> first or last broadcast in this process
        self._used_up_at: dict[int, float] = {}  # entry -> its nonce was seen used without a receipt
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._idle = threading.Event()
        self._thread: threading.Thread | None = None
        self.problem: ChainError | None = None

    # the thread

    def start(self) -> None:
        """Start sending in the background."""
        self._thread = threading.Thread(target=self._loop, name="outbox", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something new in the outbox."""
        self._idle.clear()
        self._wake.set()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything is final, at most so long; whether it is. Gives up early on a fork alarm."""
        deadline = time.monotonic() + timeout_s
        while not self._idle.wait(min(0.05, max(deadline - time.monotonic(), 0.0))):
            if time.monotonic() >= deadline or isinstance(self.problem, ForkAlarm):
                return False
        return True

    def stop(self) -> None:
        """Stop after the step at hand; what is not final stays in the outbox for the next start."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            pause = self.step()
            if pause is None:
                self._idle.set()
            self._wake.wait(pause)

    # one step

    def step(self) -> float | None:
        """Do the next thing; seconds until there may be more to do, None if all is final."""
        try:
            if self._client is None:
                self._client = self._open_client()
            pause = self._advance(self._client)
        except Unavailable as error:
            self._report(error)
            if self._client is not None:
                self._client.rotate()
            return self._pace.retry_s
        except ChainError as error:
            self._report(error)
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

    def _advance(self, client: Client) -> float | None:
        with self._engine.connect() as connection:
            entries = self._outbox.entries(connection, unfinished=True)
        moved = self._finalize(client, [entry for entry in entries if entry.state is State.INCLUDED])
        front = next((entry for entry in entries if entry.state not in (State.INCLUDED, State.FINALIZED)), None)
        if front is not None:
            moved |= self._push(client, front)
        elif moved == len(entries):
            return None
        return 0.0 if moved else self._pace.poll_s

    def _finalize(self, client: Client, included: list[Entry]) -> int:
        """Settle what can no longer be undone; undo what was undone. Returns how many became final."""
        if not included:
            return 0
        finalized = client.block_number("finalized")
        moved = 0
        for entry in included:
            if entry.block is not None and entry.block > finalized:
                break
            if self._progress(client, entry, "finalized") is not Progress.DONE:
                self._undo_if_lost(client, entry)
                break
            with self._engine.begin() as connection:
                self._outbox.finalized(connection, entry)
            moved += 1
        return moved

    def _undo_if_lost(self, client: Client, entry: Entry) -> None:
        """Send again what a reorganisation threw out: no receipt, though its block's height is final."""
        if entry.block is not None and self._receipt(client, entry) is None:
            log.warning("outbox: the inclusion of %s was undone", _name(entry))
            self._sent_at.pop(entry.id, None)
            with self._engine.begin() as connection:
                self._outbox.sent(connection, entry)

    def _push(self, client: Client, entry: Entry) -> bool:
        """Bring an entry one state further; whether it moved."""
        if entry.state is State.PREPARED:
            return self._sign(client, entry)
        if entry.state is State.SIGNED or entry.id not in self._sent_at:
            return self._send(client, entry)
        return self._watch(client, entry)

    def _sign(self, client: Client, entry: Entry) -> bool:
        intent = entry.intent
        check_chain_id(client, self._outbox.chain_id)
        if intent.purpose != "deploy":
            check_code(client, intent.contract)
        found = self._progress(client, entry, "latest")
        if found is Progress.DONE:
            self._note_inclusion(client, entry)
            return True
        if found is Progress.BEHIND:
            client.rotate()
            return False
        if intent.purpose == "commit":
            check_coordinator(client, intent, self._signer.address)
        bid = first_bid(client.fees(), self._max_fee)
        if bid is None:
            raise Misconfigured(
                f"gas costs more than the cap of {self._max_fee / 1e9:g} gwei", "wait, or raise blockchain.max_fee_gwei"
            )
        to = None if intent.purpose == "deploy" else intent.contract
        limit = gas_limit(client.estimate_gas(self._signer.address, to, intent.data, intent.value))
        with self._engine.connect() as connection:
            nonce = max(client.nonce(self._signer.address), self._outbox.highest_nonce(connection) + 1)
        if intent.nonce is not None and nonce != intent.nonce:
            raise Misconfigured(
                f"nonce {intent.nonce}, which the contract's address rests on, is used up", "start a new run"
            )
        self._sign_and_store(client, entry, Bid(bid.max_fee, bid.priority_fee), nonce, limit)
        return True

    def _sign_and_store(self, client: Client, entry: Entry, bid: Bid, nonce: int, limit: int) -> None:
        intent = entry.intent
        needed, balance = limit * bid.max_fee + intent.value, client.balance(self._signer.address)
        if balance < needed:
            raise Misconfigured(
                f"account {self._signer.address} holds {balance} wei, {_name(entry)} may cost {needed}",
                "send it funds; nothing was sent, and sending goes on by itself",
            )
        to = None if intent.purpose == "deploy" else intent.contract
        raw = self._signer.sign(
            Transaction(
                self._outbox.chain_id, nonce, to, intent.data, intent.value, limit, bid.max_fee, bid.priority_fee
            )
        )
        with self._engine.begin() as connection:
            self._outbox.signed(
                connection, entry, Attempt(nonce, raw, keccak(raw), limit, bid.max_fee, bid.priority_fee)
            )

    def _send(self, client: Client, entry: Entry) -> bool:
        client.send_raw(entry.attempts[-1].raw)
        self._sent_at[entry.id] = self._clock()
        with self._engine.begin() as connection:
            self._outbox.sent(connection, entry)
        return True

    def _watch(self, client: Client, entry: Entry) -> bool:
        """Look for a receipt; raise the fee, send again or give up on the nonce when there is none for too long."""
        found = self._receipt(client, entry)
        if found is not None:
            attempt, receipt = found
            with self._engine.begin() as connection:
                if receipt.succeeded:
                    self._outbox.included(
                        connection, entry, block=receipt.block, gas_used=receipt.gas_used, tx_hash=attempt.hash
                    )
                else:  # the nonce is gone; sign again with a new estimate, if it still needs doing
                    self._outbox.prepared_again(connection, entry)
            return True
        attempt, now = entry.attempts[-1], self._clock()
        if client.nonce(self._signer.address) > attempt.nonce:
            return self._give_up_nonce(client, entry, now)
        if now - self._sent_at[entry.id] < self._pace.bump_after_s:
            return False
        bid = raised_bid(Bid(attempt.max_fee, attempt.priority_fee), client.fees(), self._max_fee)
        if bid is None:  # at the cap: the same bytes again, in case the pool dropped them
            return self._send(client, entry)
        self._sign_and_store(client, entry, bid, attempt.nonce, attempt.gas_limit)
        return True

    def _give_up_nonce(self, client: Client, entry: Entry, now: float) -> bool:
        """Decide what to do when some transaction used the nonce, but no endpoint knows a receipt of ours."""
        if now - self._used_up_at.setdefault(entry.id, now) < self._pace.lost_after_s:
            client.rotate()
            return False
        del self._used_up_at[entry.id]
        found = self._progress(client, entry, "finalized")
        if found is Progress.DONE:
            self._note_inclusion(client, entry)
        elif found is Progress.DUE:
            with self._engine.begin() as connection:
                self._outbox.prepared_again(connection, entry)
        return True

    def _receipt(self, client: Client, entry: Entry) -> tuple[Attempt, Receipt] | None:
        """Receipt of whichever attempt was included, a successful one first."""
        failed = None
        for attempt in reversed(entry.attempts):
            receipt = client.receipt(attempt.hash)
            if receipt is not None and receipt.succeeded:
                return attempt, receipt
            if receipt is not None and attempt.nonce == entry.attempts[-1].nonce:
                failed = (attempt, receipt)
        return failed

    def _note_inclusion(self, client: Client, entry: Entry) -> None:
        found = self._receipt(client, entry)
        attempt, receipt = found if found is not None and found[1].succeeded else (None, None)
        with self._engine.begin() as connection:
            self._outbox.included(
                connection,
                entry,
                block=receipt.block if receipt else None,
                gas_used=receipt.gas_used if receipt else None,
                tx_hash=attempt.hash if attempt else None,
            )

    def _progress(self, client: Client, entry: Entry, tag: Tag) -> Progress:
        """How far the chain is; waits out what may be an old block, and raises the alarm on what is final."""
        found = progress(client, entry.intent, tag, self._head_after(entry))
        if found is Progress.FOREIGN and tag == "latest":
            found = progress(client, entry.intent, "finalized", self._head_after(entry))
            if found is not Progress.FOREIGN:
                found = Progress.BEHIND
        if found is Progress.FOREIGN:
            raise ForkAlarm(
                f"the chain holds another history of the session than ours, at or before round {entry.intent.round}",
                "someone else commits with the coordinator's key, or the run database is old; commits have stopped",
            )
        return found

    def _head_after(self, entry: Entry) -> Callable[[int], bytes | None]:
        def head_after(number: int) -> bytes | None:
            with self._engine.connect() as connection:
                return self._outbox.head_after(connection, entry.intent.session, number)

        return head_after


def _name(entry: Entry) -> str:
    intent = entry.intent
    return f"the commit of round {intent.round}" if intent.purpose == "commit" else f"the {intent.purpose} transaction"
