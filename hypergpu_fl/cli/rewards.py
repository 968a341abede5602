"""``hypergpu rewards``: what each node of a run earned, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import typer

from hypergpu_fl.cli.ledger import Rpc
from hypergpu_fl.cli.names import names_in
from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import books_of
from hypergpu_fl.cli.render import Format, FormatOption, render
from strategies.prose import amount

if TYPE_CHECKING:
    from hypergpu_fl.ledger.bundle import ContributionRecord, RoundRecord

NOTHING_PRICED: Final = (
    "nothing was priced: without a chain (blockchain.enabled = false) blockchain.scoring = auto measures nothing; "
    "name a scoring, such as aumann_shapley, to see what each node of the next run brings"
)

app = typer.Typer(add_completion=False, help="What each node of a run earned.")


@app.command()
def rewards(
    run: Run = "latest",
    rpc: Rpc = "",
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Show what each node earned and why, and with --rpc what it has been paid.

    Example: hypergpu rewards demo
    """
    from hypergpu_fl.chain.contract import LedgerContract
    from hypergpu_fl.chain.http import HttpChain
    from hypergpu_fl.settlement import distribution, held_in_bundle, shared_rounds
    from hypergpu_fl.settlement.opening import rpc_urls

    bundle = books_of(run, runs)
    names = names_in(run, runs)
    earned = distribution(bundle)
    of_node: dict[str, list[ContributionRecord]] = {}
    unpriced: Counter[str] = Counter()
    for record in bundle.rounds:
        for entry in record.contributions:
            of_node.setdefault(entry.node, []).append(entry)
            unpriced[entry.node] += not is_priced(record)
    session = bundle.session
    chain = HttpChain(rpc_urls(rpc), chain_id=session.chain_id) if rpc else None
    contract = LedgerContract(chain, session.contract) if chain else None
    shared = shared_rounds(bundle, chain) if chain else 0
    rows = []
    for node in sorted(of_node, key=lambda node: (-earned.cumulative.get(node, 0), node)):
        wei = earned.cumulative.get(node, 0)
        row = {
            "name": names.get(node),
            "node": node,
            "rounds": len(of_node[node]),
            "earned_wei": str(wei) if format is Format.JSON else wei,
            "share": wei / earned.owed if earned.owed else 0.0,
            "near_duplicates": sum(bool(entry.duplicate_of) for entry in of_node[node]),
            "why": in_words(of_node[node], names, base_pay=session.base_pay, unpriced=unpriced[node]),
        }
        if contract is not None:
            rounds = contract.paid_rounds(session.id, node, shared)
            granted = held_in_bundle(bundle, node, upto=shared).amounts
            paid = sum(wei for round, wei in granted.items() if round in rounds)
            row["paid_wei"] = str(paid) if format is Format.JSON else paid
        rows.append(row)
    render(rows, format)
    if format is not Format.DEFAULT:
        return
    if of_node and not any(is_priced(record) for record in bundle.rounds):
        typer.echo(NOTHING_PRICED)
    else:
        whole = session.budget * len(bundle.rounds)
        typer.echo(
            f"{whole - earned.unspent} of {whole} wei earned; {earned.unspent} "
            + (
                "are the coordinator's again"
                if bundle.seal is not None and bundle.seal.ended
                else "rolled on to the next round, and are the coordinator's again when the run ends"
            )
        )
        typer.echo("scores are the coordinator's word; signatures rule out forged contributions, not unfair scores")


def is_priced(record: RoundRecord) -> bool:
    """Whether a round's contributions were priced; books may hold scores without saying how these came about."""
    return record.pricing is not None or any(entry.score for entry in record.contributions)


def in_words(entries: Sequence[ContributionRecord], names: dict[str, str], *, base_pay: int, unpriced: int) -> str:
    """Why a node earned what it did, from its contributions, of which ``unpriced`` are of rounds that were not priced.

    ``base_pay`` is in ten-thousandths of the budget.
    """
    good = sum(entry.score > 0 for entry in entries)
    harm = sum(entry.score < 0 for entry in entries)
    found = {
        "brought something": good,
        "changed nothing": len(entries) - good - harm - unpriced,
        "took something away": harm,
        "not priced": unpriced,
    }
    said = [
        f"{amount(len(entries), 'contribution')} counted: " + ", ".join(f"{n} {what}" for what, n in found.items() if n)
    ]
    if good and harm:
        said.append("the harm was set off against the rest")
    twins = {entry.duplicate_of for entry in entries if entry.duplicate_of}
    if twins:
        copies = sum(bool(entry.duplicate_of) for entry in entries)
        said.append(f"{copies} nearly equalled {', '.join(sorted(names.get(t, t) for t in twins))} and shared a reward")
    if base_pay:
        said.append(f"{base_pay / 1e4:g} % of the budget went by work done")
    return "; ".join(said)
