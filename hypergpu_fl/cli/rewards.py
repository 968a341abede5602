"""``hypergpu rewards``: what each node of a run earned."""

from __future__ import annotations

from collections import Counter

import typer

from hypergpu_fl.cli.ledger import Rpc
from hypergpu_fl.cli.names import names_in
from hypergpu_fl.cli.options import Run, Runs
from hypergpu_fl.cli.place import books_of
from hypergpu_fl.cli.render import Format, FormatOption, render

app = typer.Typer(add_completion=False, help="What each node of a run earned.")


@app.command()
def rewards(
    run: Run = "latest",
    rpc: Rpc = "",
    runs: Runs = None,
    format: FormatOption = Format.DEFAULT,
) -> None:
    """Show what each node earned, and with --rpc what it has been paid.

    Example: hypergpu rewards demo
    """
    from hypergpu_fl.chain.contract import LedgerContract
    from hypergpu_fl.chain.http import HttpChain
    from hypergpu_fl.settlement import distribution, held_in_bundle, shared_rounds
    from hypergpu_fl.settlement.opening import rpc_urls

    bundle = books_of(run, runs)
    names = names_in(run, runs)
    earned = distribution(bundle)
    sealed = [entry for record in bundle.rounds for entry in record.contributions]
    times = Counter(entry.node for entry in sealed)
    flagged = Counter(entry.node for entry in sealed if entry.duplicate_of)
    session = bundle.session
    chain = HttpChain(rpc_urls(rpc), chain_id=session.chain_id) if rpc else None
    contract = LedgerContract(chain, session.contract) if chain else None
    shared = shared_rounds(bundle, chain) if chain else 0
    rows = []
    for node in sorted(times, key=lambda node: (-earned.cumulative.get(node, 0), node)):
        wei = earned.cumulative.get(node, 0)
        row = {
            "name": names.get(node),
            "node": node,
            "rounds": times[node],
            "earned_wei": str(wei) if format is Format.JSON else wei,
            "share": wei / earned.owed if earned.owed else 0.0,
            "near_duplicates": flagged[node],
        }
        if contract is not None:
            rounds = contract.paid_rounds(session.id, node, shared)
            granted = held_in_bundle(bundle, node, upto=shared).amounts
            paid = sum(wei for number, wei in granted.items() if number in rounds)
            row["paid_wei"] = str(paid) if format is Format.JSON else paid
        rows.append(row)
    render(rows, format)
    if format is Format.DEFAULT:
        typer.echo("scores are the coordinator's word; signatures rule out forged contributions, not unfair scores")
