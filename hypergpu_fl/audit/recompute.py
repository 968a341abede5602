"""An audit: log, decisions, weights and models of all rounds, and values and scores of the drawn rounds, recomputed."""

from __future__ import annotations

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from hypergpu_fl.audit.fold import REMEDY, Folded, KeptModel, fold
from hypergpu_fl.codec.payload import CodecPayload
from hypergpu_fl.config import Config
from hypergpu_fl.errors import LedgerError, VerificationError
from hypergpu_fl.ledger.blobs import Blobs
from hypergpu_fl.ledger.bundle import Bundle, RoundRecord
from hypergpu_fl.ledger.contribution import hash_blob
from hypergpu_fl.ledger.event_log import heads_of, verify_log
from hypergpu_fl.ledger.pricing import Pricing
from hypergpu_fl.pricing import AUDITED, PricedRounds, Pricer, versioned
from hypergpu_fl.pricing.kept_updates import FIRST, MANIFEST, SAME, STATE, model_after, round_folder
from hypergpu_fl.task import Task, fresh_model, layout_of
from strategies.errors import BadLine
from strategies.event_log import FILE
from strategies.model.layout import Layout, Vector
from strategies.model.server_optimizer import ServerOptimizer
from strategies.outcome import Accepted, RoundOutcome
from strategies.round.lines import LONGEST_LINE
from strategies.round.replay import replay

if TYPE_CHECKING:
    import torch

TOLERANCE: Final = 1e-3
"""How far a value may be from the recomputed one, as a share of the sum of the round's absolute values: a GPU, or
another order of summation, rounds differently."""
SLACK: Final = 20  # allowed on top of that, in units of 1e-9 of the loss


@dataclass(frozen=True, slots=True)
class Found:
    """What an audit recomputed and found to agree with the books."""

    rounds: int
    contributions: int
    priced_rounds: tuple[int, ...]
    priced_contributions: int
    unaudited: tuple[str, ...]

    def sampled_share(self, share: float) -> float:
        """Probability that the drawn rounds reveal a change that was made in ``share`` of all rounds."""
        drawn, changed = len(self.priced_rounds), max(1, round(share * self.rounds))
        missed = 1.0
        for number in range(drawn):
            missed *= max(0.0, 1 - changed / max(1, self.rounds - number))
        return 1 - missed


def drawn(rounds: int, count: int | None, seed: int) -> tuple[int, ...]:
    """Rounds to price again: all of them, or ``count`` drawn by the auditor's ``seed``."""
    if count is None or count >= rounds:
        return tuple(range(1, rounds + 1))
    return tuple(sorted((1 + np.random.default_rng(seed).permutation(rounds)[:count]).tolist()))


def audit(
    bundle: Bundle,
    folder: Path,
    config: Config,
    task: Task,
    *,
    device: torch.device,
    count: int | None = None,
    seed: int = 0,
) -> Found:
    """Recompute a run from its verified ``bundle``, and the log and updates in ``folder``.

    Parameters
    ----------
    config, task
        The run's own; they determine model, data and server optimiser.
    count, seed
        Number of rounds whose values are recomputed, None for all, and the seed that draws them.

    Raises
    ------
    VerificationError
        At the first difference; names the round.
    LedgerError
        If the run kept no updates.
    """
    records, blobs = bundle.rounds, folder / "blobs"
    check_log(folder, records)
    if not (blobs / FIRST).is_file():
        raise LedgerError(
            f"{folder} keeps no updates to recompute from",
            "a run keeps them unless blockchain.keep_updates_mb is 0; without them only `ledger verify` is possible",
        )
    kept = kept_model(blobs, rounds=len(records))
    model = fresh_model(task, config.training.seed)
    arrays = task.arrays(model)
    layout = layout_of(arrays, model)
    first_P = first_model(blobs, layout)
    check_first(first_P, records)
    training = config.training
    folded = fold(
        lines_of(folder),
        records,
        lambda round: Blobs(round_folder(blobs, round)),
        CodecPayload(layout),
        layout=layout,
        first_P=first_P,
        buffers=layout.buffers(arrays),
        optimizer=ServerOptimizer(training.server_optimizer, training.server_learning_rate, training.server_momentum),
        kept=kept,
    )
    wanted, unaudited = drawn(len(records), count, seed), list[str]()
    scorings = {record.pricing.scoring for record in records if record.pricing}
    scoring = next((name for name in AUDITED if scorings == {versioned(name)}), None)
    if kept is not None:
        unaudited.append(f"rounds 1 to {kept.after_round}, whose updates were removed, and therefore all values")
        scoring, wanted = None, ()
    elif scoring is None:
        if scorings or any(entry.score for record in records for entry in record.contributions):
            unaudited.append(f"values and scores, made by {', '.join(sorted(scorings)) or 'nobody knows what'}")
        wanted = ()
    contributions = priced = 0
    with tempfile.TemporaryDirectory(prefix="hypergpu-audit-") as scratch:
        open_, payload = Blobs(Path(scratch) / "open"), CodecPayload(layout)
        pricer = (
            Pricer(
                task, model, layout, device=device, scoring=scoring, max_examples=config.blockchain.max_examples,
                seed=training.seed, blobs=open_, rounds=PricedRounds(Path(scratch) / "priced", last_round=0),
                decode=payload.decode,
            )
            if scoring
            else None
        )  # fmt: skip
        for rebuilt in folded:
            contributions += len(rebuilt.updates)
            if pricer is not None:
                again = rebuilt.record.round in wanted
                priced += len(rebuilt.updates) if again else 0
                _price(pricer, rebuilt, bundle.session.id, again=again, all_=len(wanted) == len(records))
                for entry, _, _ in rebuilt.updates:
                    open_.drop(entry.update_hash)
    begun = kept.after_round if kept else 0
    return Found(len(records) - begun, contributions, wanted, priced, tuple(unaudited))


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Name a file that is not what a run writes: it comes from whoever is audited."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise VerificationError(f"{file} cannot be read: {error}", "bring back the run's blobs") from None


def kept_model(blobs: Path, *, rounds: int) -> KeptModel | None:
    """Where the kept updates begin, which is after one of the ``rounds``; None: at the first model.

    Raises
    ------
    VerificationError
        If the manifest or the model that it names cannot be read.
    """
    with _readable(blobs / MANIFEST):
        begun = int(json.loads((blobs / MANIFEST).read_text())["after_round"])
        if not 0 <= begun <= rounds:
            raise ValueError(f"it names round {begun}, the books hold {rounds}")
    if not begun:
        return None
    with _readable(model_after(blobs, begun)), np.load(model_after(blobs, begun)) as content:
        vectors = {name: content[name] for name in content.files if name not in (STATE, SAME)}
        same = json.loads(str(content[SAME])) if SAME in content.files else {}
        vectors |= {name: vectors[written] for name, written in dict(same).items()}
        return KeptModel(begun, json.loads(str(content[STATE])), vectors)


def first_model(blobs: Path, layout: Layout) -> Vector:
    """Values of the first model, shape (P,); VerificationError if they are not those of a model of this layout."""
    with _readable(blobs / FIRST):
        mapped = np.load(blobs / FIRST, mmap_mode="r")  # memory is taken only for what the file really holds
        if (mapped.shape, mapped.dtype) != ((layout.size,), np.float32):
            raise ValueError(f"it holds {mapped.dtype} of shape {mapped.shape}, the task's model {layout.size} float32")
        return np.array(mapped)


def check_log(folder: Path, records: Sequence[RoundRecord]) -> None:
    """Check that the rounds seal this log's heads, and that every decision in it follows from its rules and events."""
    if any(record.log_head is None for record in records):
        raise LedgerError("a round seals no log", "it was made by another release")
    verify_log(heads_of(records), lines_of(folder))
    try:
        found = replay(lines_of(folder), upto=len(records))
    except BadLine as error:
        raise VerificationError(f"the event log: {error}", REMEDY) from error
    if found.difference is not None:
        raise VerificationError(f"the event log: {found.difference}", REMEDY)


def lines_of(folder: Path) -> Iterator[bytes]:
    """The log's lines, each of bounded length."""
    with (folder / FILE).open("rb") as log:
        yield from iter(lambda: log.readline(LONGEST_LINE), b"")


def check_first(first_P: Vector, records: Sequence[RoundRecord]) -> None:
    """Check that the first model is the one that the nodes of round 1 signed as their base."""
    digest = hash_blob(np.ascontiguousarray(first_P).data.cast("B"))
    for record in records:
        for entry in record.contributions:
            if entry.round == 1 and entry.base_model != digest:
                raise VerificationError(
                    f"round {record.round}: {entry.node} began from model 0x{entry.base_model.hex()}, the first one "
                    f"that is kept is 0x{digest.hex()}",
                    REMEDY,
                )


def _price(pricer: Pricer, folded: Folded, session: bytes, *, again: bool, all_: bool) -> None:
    record = folded.record
    accepted = []
    for (entry, blob, update), weight, steps in zip(folded.updates, folded.weights, folded.steps, strict=True):
        pricer.added(entry.node, entry.sealed(session).credited.contribution, blob, update, folded.base_P, None)
        accepted.append(
            Accepted(
                row=0, node=entry.node, node_id=0, round=entry.round, base=0, staleness=0, steps=steps, examples=1,
                bytes_up=len(blob), weight=weight, metrics={},
            )
        )  # fmt: skip
    outcome = RoundOutcome(
        round=record.round, started_s=0, ended_s=0, selected=[], accepted=accepted, refused=[], late=0, bytes_down=0,
        bytes_up=0, base_hash=folded.base_hash, model_hash=record.model, average_P=folded.base_P,
        buffers=folded.buffers, step=folded.step,
    )  # fmt: skip
    if not again:
        pricer.passed(outcome, [entry.score for entry, _, _ in folded.updates])
        return
    prices = pricer.priced(outcome)
    sealed, mine = record.pricing, prices.pricing
    if sealed is None or mine is None:
        raise VerificationError(f"round {record.round} is sealed without how it was priced, the others are not", REMEDY)
    reach = SLACK + TOLERANCE * sum(abs(each.value) for each in mine.contributions)
    _check_losses(record.round, sealed, mine)
    whole = all_ or not any([*prices.copies, *(entry.duplicate_of for entry in record.contributions)])
    for entry, theirs, ours, score, copied in zip(
        record.contributions, sealed.contributions, mine.contributions, prices.scores, prices.copies, strict=True
    ):
        pairs = [("value", theirs.value, ours.value)] + ([("score", entry.score, score)] if whole else [])
        for what, told, own in pairs:
            if abs(told - own) > reach:
                raise VerificationError(
                    f"round {record.round}: {entry.node} is sealed with {what} {told}, its update comes to {own} "
                    f"(give or take {reach:.0f})",
                    REMEDY,
                )
        if all_ and bool(copied) != bool(entry.duplicate_of):
            raise VerificationError(
                f"round {record.round}: the update of {entry.node} {'is' if copied else 'is not'} a near copy, the "
                f"books say {entry.duplicate_of or 'of nobody'}",
                REMEDY,
            )


def _check_losses(round: int, sealed: Pricing, mine: Pricing) -> None:
    for told, own in ((sealed.loss_before, mine.loss_before), (sealed.loss_after, mine.loss_after)):
        if (told is None) != (own is None) or (
            told is not None and own is not None and abs(told - own) > SLACK + TOLERANCE * abs(own)
        ):
            raise VerificationError(f"round {round}: loss {told} is sealed, the model's is {own}", REMEDY)
